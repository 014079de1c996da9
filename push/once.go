package push

import (
	"context"
	"time"
)

// OnceConfig configures channel.Once.
type OnceConfig struct {
	// Window is how long the reply to a push is kept. It begins anew when the push is received again.
	// Clients that keep pushes while they are offline need one of 48 h or more. Zero means 10 min.
	Window time.Duration
	// Store has the replies. Handlers on several nodes need one that the nodes share. Nil means
	// NewOnceMemory(0).
	Store OnceStore
}

// OnceStore has the pushes that channel.Once has seen. It is used by several nodes at once. Package
// push/oncetest tests implementations.
//
// A key is a string of at most 128 bytes. Its part before the first "." names the client, so that a
// store can bound how much it keeps for each of them. A holder names one attempt to handle a push.
// A reply is not empty and has at most 65 KiB.
//
// A store may have a method Evicted() uint64, the number of replies that it dropped before the end
// of their window. It is part of socket.Stats.
type OnceStore interface {
	// Begin claims a key for a holder, who keeps it for the time of the lease. If the holder has it
	// already, the lease begins anew. If a reply is recorded, Begin returns it, and its window begins
	// anew. If another holder has the key, mine is false and reply is nil.
	//
	// ErrTooManyIDs means that the client has too many unexpired keys.
	Begin(ctx context.Context, key, holder string, lease time.Duration) (mine bool, reply []byte, err error)
	// Finish records the reply for the window and returns the reply that counts. That is the one of
	// the first Finish, also if the lease of that holder had ended.
	Finish(ctx context.Context, key, holder string, reply []byte, window time.Duration) (counts []byte, err error)
	// Release gives up a key that the holder has and that has no reply. Otherwise it does nothing.
	Release(ctx context.Context, key, holder string) error
}
