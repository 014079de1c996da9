package will

import (
	"context"
	"errors"
	"time"

	"bennu.example/serializer"
)

// ErrFenced reports that a newer connection of the client has arrived on the topic.
var ErrFenced = errors.New("will: a newer connection of the client has joined the topic")

// ErrRunning reports that the will is claimed, so that it cannot be replaced.
var ErrRunning = errors.New("will: the will is being run")

// Connection is a connection of a client. The Subject and the ClientID together name the client.
type Connection struct {
	ID       string `json:"id"`
	Subject  string `json:"subject,omitempty"`
	ClientID string `json:"client"`
	// Order is the client's own number for the connection. Zero means that it gave none. Of two
	// connections with a number, the greater one is the newer; otherwise the one that arrived later.
	Order uint64 `json:"order,omitempty"`
}

// Will is an event to broadcast when a connection has ended.
type Will struct {
	// ID names the will. It is unique.
	ID      string             `json:"id"`
	Topic   string             `json:"topic"`
	Event   string             `json:"event"`
	Payload serializer.Payload `json:"payload"`

	Connection Connection `json:"connection"`
	// Node has the connection: see Store.Lease.
	Node string `json:"node"`
	// After is the time between the end of the connection and the broadcast.
	After time.Duration `json:"after"`
}

// Store keeps the wills of all nodes. Its methods may be called from any goroutine, and are atomic.
// Times are those of the store, not of the node.
//
// Delete and End apply to wills of one topic and one connection, and ignore those that they do not
// find.
type Store interface {
	// Arrive makes c the newest connection of its client on the topic, unless a newer one has arrived
	// there. It deletes the wills of older connections. If some of them are claimed, Arrive returns
	// the time for which they are: they may be running. The caller must call Arrive again until it
	// returns zero.
	Arrive(ctx context.Context, topic string, c Connection) (busy time.Duration, err error)
	// Put stores a will, or replaces the one with its ID. The error wraps ErrFenced if another
	// connection of the client has arrived on the topic, and it was not this one that arrived last. If
	// none has, this connection arrives.
	Put(ctx context.Context, w Will) error
	// Delete removes wills.
	Delete(ctx context.Context, topic string, c Connection, ids ...string) error
	// End makes wills due when their After has passed from now.
	End(ctx context.Context, topic string, c Connection, ids ...string) error

	// Lease declares that a node lives for the duration d from now. It reports whether the node had a
	// lease until now; otherwise its wills may have run. A negative or zero d ends the lease.
	Lease(ctx context.Context, node string, d time.Duration) (kept bool, err error)
	// Expire calls End for the wills of the nodes whose lease has ended, as of that time.
	Expire(ctx context.Context) error
	// Claim returns wills that are due, about max, and keeps them from being claimed again for the
	// duration hold. The caller must broadcast each of them before that, and Delete it. The wills that
	// it returns are claimed even if there is an error.
	Claim(ctx context.Context, max int, hold time.Duration) ([]Will, error)
}
