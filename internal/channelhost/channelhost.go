// Package channelhost defines what packages socket and channel need of each other, and users do
// not: how a socket begins and ends the channels of its client.
//
// Package internal/clientlink has more of the same for the client's end.
package channelhost

import (
	"context"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/durable"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/will"
)

// Package channel sets these variables when it is initialized; nothing else may change them. They
// take the place of exported functions of that package, which users would see. This package cannot
// name the types of package channel, because that package imports it.
var (
	// Start begins a server's channel with a client's phx_join.
	Start func(up Carrier, join Join) Channel
	// NewClient returns a new client's channel of a socket, a *channel.Client.
	NewClient func(socket clientlink.Socket, topic string, params any, cfg ClientConfig) any
	// Follow makes f receive what happens to a *channel.Client. It must be called before Join.
	Follow func(client any, f Follower)
	// Outbox returns the outbox of a *channel.Client, or nil.
	Outbox func(client any) *durable.Outbox
	// RightsEnded reports whether a client's channel that ended for that reason has lost the right to
	// what it had.
	RightsEnded func(cause error) bool
	// Observe returns a copy of a *channel.Handler that reports its channels, for package channeltest:
	// joined is called when a join callback has accepted a client, and terminated before Terminate.
	// Both are called as callbacks of the channel, a *channel.Channel, are.
	Observe func(handler any, joined func(channel any), terminated func(channel any, reason error)) any

	// Instrument returns a copy of a *channel.Handler that calls the hooks.
	Instrument func(handler any, hooks *Hooks) any

	// The following are for package state, which decides itself what its channels are sent. The
	// channel is a *channel.Channel. They may be called from any goroutine and under locks.

	// Forward sends a broadcast to the client of one channel. Its frame is encoded once and shared, as
	// that of a broadcast to the topic. The error is channel.ErrNotJoined, channel.ErrClosed,
	// transport.ErrNoRoom or that of the encoding.
	Forward func(channel any, b *pubsub.Broadcast, how transport.Delivery) error
	// Post is channel.Channel.Send, without regard to the bound of the mailbox. The caller must bound
	// how many messages wait.
	Post func(channel any, msg any)
	// Drained reports whether the connection is drained, see transport.Conn. If not, msg is posted
	// when it is, once for equal messages.
	Drained func(channel any, msg any) bool
	// Lose ends the channel because changes were lost that its client needs. The client receives
	// phx_error and joins again. The caller must call it once.
	Lose func(channel any)
	// PubSub returns what the channel's topic is broadcast by.
	PubSub func(channel any) *pubsub.PubSub
	// OnceStore returns the push.OnceStore of a *channel.Handler, or nil.
	OnceStore func(handler any) any
	// RunWill calls the callback that a *channel.Handler has for wills that are due. Runs is false
	// if it has none. Final means that the error is one of push.Reject.
	RunWill func(ctx context.Context, handler any, w will.Will) (runs, final bool, err error)
	// Log logs an error as the channel's own are logged.
	Log func(channel any, message string, err error)
)

// Join is what Start needs of a join and its socket.
type Join struct {
	Handler    any                // a *channel.Handler
	Message    serializer.Message // the phx_join
	Before     Channel            // the channel that has the topic, which the join replaces; nil if there is none
	MaxMailbox int                // the bytes of messages that may wait for the channel's callbacks
	Workers    *mailbox.Workers   // run the callbacks
	Values     context.Context    // of the connection's grant; nil means that it has none
}

// Hooks are called about the channels of one handler, all of them set. A channel is a
// *channel.Channel, and cb a *channel.Callback. They must not panic. They are called under no lock:
// Start, done, Joined, Recovered and Left by the goroutine of the channel's callbacks, Refused and
// Crashed by any.
type Hooks struct {
	// Start is called before a callback, and its results are the context of the callback and a
	// function that is called after it.
	Start func(ctx context.Context, channel, cb any) (
		_ context.Context, done func(ctx context.Context, took time.Duration, err error))
	Joined    func(channel any)                         // after the reply
	Recovered func(channel any, missed int, why string) // after Joined, if the client asked for history
	Refused   func(channel any, crashed bool, err error)
	Crashed   func(channel any, what string, err error)
	Left      func(channel any, reason error) // at the end of a channel that was joined
}

// Regrant is a change of the grant of a channel's connection.
type Regrant struct {
	// Values has the values of the new grant. They come before those of the channel's context.
	Values context.Context
	// Otherwise is the reason for which a channel ends whose handler has no Reauthorize. Empty means
	// that it stays.
	Otherwise string
}

// Will is a last will that a client wants to set on a topic.
type Will struct {
	Event   string
	Payload serializer.Payload
	// Set is called with the payload that the handler allows, or with a *push.Error, unless the
	// channel ends before. Like a callback, it may block.
	Set func(ctx context.Context, p serializer.Payload, err error)
	// Ended is called when the channel has ended, after Terminate, with the cause of its context.
	Ended func(cause error)
}

// Channel is a server's channel as its socket sees it. The connection's reader calls its methods,
// one at a time; Wait, Cancel, Resume, ReadOn, Queued and HasEnded may be called from any
// goroutine.
//
// Messages are passed by value, because a pointer that is passed to a method of an interface makes
// its message escape to the heap.
type Channel interface {
	// Topic returns the topic that the client joined.
	Topic() string
	// Accepts reports whether a message with this join_ref belongs to this join. Null does; the
	// join_ref of an older join does not.
	Accepts(joinRef serializer.Ref) bool
	// ReplyRef returns the join_ref of replies to messages of this join, except for the join itself.
	ReplyRef() serializer.Ref
	// Receive enqueues an event of the client. It waits for room in the mailbox for the given time,
	// and then kills the channel, which would hold up the whole socket otherwise. The time during
	// which the connection is congested does not count. Receive reports false if the topic is no
	// longer joined: the caller must answer the event. Next is the mailbox if it is pending, or nil.
	Receive(m serializer.Message, wait time.Duration) (next mailbox.Pending, ok bool)
	// Leave enqueues the client's phx_leave. It waits and reports as Receive does.
	Leave(m serializer.Message, wait time.Duration) bool
	// Watch bounds the time of the join's callback, from when it is called, or from now if it was
	// called already. Zero means no bound.
	//
	// If the callback has not returned in time, the client receives the reply "join crashed", the
	// topic is free, and the join's context is cancelled by channel.ErrJoinTimeout. Messages that are
	// queued behind the join are answered as well. Watch does nothing if the join was answered.
	Watch(limit time.Duration)
	// Regrant enqueues a change of the grant. It does not block. The channel's context has the new
	// values when the messages before it are handled, and then Reauthorize is called.
	Regrant(*Regrant)
	// SetWill enqueues a will. It does not block. An error, made by push.Reject, means that Set and
	// Ended are not called.
	SetWill(w *Will) error
	// AllowsWills reports whether the channel's handler has AllowWill.
	AllowsWills() bool
	// Revoke ends the channel at once: the client receives phx_close with the reason, the messages in
	// the mailbox are dropped, and the context of the callback that runs is cancelled. A channel that
	// is not joined yet ends without a frame.
	Revoke(reason string)
	// Values returns the values of the grant that callbacks that begin now have. Nil means that there
	// are none, or that no callback begins any more.
	Values() context.Context
	// Close ends the channel because its connection ended. Messages in the mailbox are still handled
	// before Terminate is called.
	Close(reason error)
	// Cancel drops the messages in the mailbox and cancels the context of the callback that runs.
	Cancel(reason error)
	// Resume lets the channel go on with its client's messages, see Carrier.Congested.
	Resume()
	// ReadOn lets the channel go on with the records that its client has not received, see
	// Carrier.Drained.
	ReadOn()
	// Queued returns what is in the mailbox, the message of the callback that runs included.
	Queued() (messages, bytes int)
	// HasEnded reports whether none of the channel's callbacks runs any more.
	HasEnded() bool
	// Wait waits for the channel's end after Close or Cancel.
	Wait()
}

// Carrier is the socket under a server's channels. Its methods may be called from any goroutine.
// Except for Arrive, they do not block.
type Carrier interface {
	// Context is the parent of the contexts of the callbacks. It is never cancelled. It returns the
	// same context each time.
	Context() context.Context
	Serializer() serializer.Serializer
	PubSub() *pubsub.PubSub
	// Send sends a frame, as transport.Conn does. It may be called under locks of the channel, and
	// must not call the channel.
	Send(f *serializer.Frame, how transport.Delivery) error
	// Batch calls f, and then writes what f has sent in one go, if the connection can do that. It must
	// not be called under locks, and f must not block.
	Batch(f func())
	// Congested reports whether the connection is congested, see transport.Conn. If so, it calls the
	// channel's Resume when the connection no longer is.
	Congested(c Channel) bool
	// Drained reports whether the connection is drained, see transport.Conn. If not, it calls the
	// channel's ReadOn when it is. It may be called during a delivery, under the lock of a topic.
	Drained(c Channel) bool
	// ClientID identifies the client across the connections that it has as the same user. It is empty
	// if it is unknown.
	ClientID() string
	// Identity returns Request.ID, the id that the client gave as $client, and the name of the
	// connection. The first two may be empty.
	Identity() (subject, client, connection string)
	// Outgoing returns what waits for the client.
	Outgoing() (frames, bytes int, oldest time.Duration)
	// Arrive is called before the join of a channel that allows wills is answered. It may block. When
	// it returns nil, no will of an older connection of the client runs on the topic any more. The
	// error is one made by push.Reject.
	Arrive(ctx context.Context, topic string) error
	// End removes the channel from its topic, unless the topic has another one by now, and sends the
	// frames, in one step: frames of the next join of the topic come after them. It skips nil frames.
	End(c Channel, frames ...*serializer.Frame)
	// Answered is called when a join was answered, whatever the answer.
	Answered()
	// Ended is called when a channel has ended: none of its callbacks runs any more.
	Ended()
	// Crashed reports that a callback failed, which ended the channel or its join.
	Crashed(c Channel, what string, err error)
	// Log reports any other fault.
	Log(c Channel, message string, err error)
}

// Worker is a Carrier that waits for goroutines which work for several channels. Its methods may be
// called under the lock of a topic.
type Worker interface {
	// WorkBegan notes a goroutine for which Shutdown waits until WorkEnded is called. It reports
	// false if Shutdown waits no longer: no goroutine may be started then.
	WorkBegan() bool
	WorkEnded()
}

// Member is a server's channel as the subscriber of its topic.
type Member interface {
	// Remove ends the channel with phx_close and the reason, if its carrier matches. Messages in its
	// mailbox are still handled before. It may be called under the lock of the topic; matches must not
	// block. Remove reports whether the carrier matches.
	Remove(matches func(Carrier) bool, reason string) bool
	// Channel returns the *channel.Channel, and Queued what is in its mailbox. Like Remove, they may
	// be called under the lock of the topic.
	Channel() any
	Queued() (messages, bytes int)
}

// Follower receives the events of a client's channel, and the changes of its state, in order. Its
// methods run on the goroutine of the client's socket, which handles nothing else meanwhile: they
// must be short, and must not call the user's code. So there is no backlog that could overflow.
type Follower interface {
	Joined(reply serializer.Payload)
	Received(event string, p serializer.Payload)
	Errored(err error) // the channel will be joined again
	Closed(err error)
}

// ClientConfig configures NewClient. It has no defaults.
type ClientConfig struct {
	Prefix      string // of the topic on the wire
	Timeout     time.Duration
	RejoinAfter func(tries int) time.Duration
	MaxBuffer   int // size in bytes of pushes that were not sent yet
	MaxBacklog  int // size in bytes of events that were not handled yet

	Outbox *durable.Outbox // nil without socket.ClientConfig.Offline

	ManualRejoin bool
}
