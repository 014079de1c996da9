// Package clientlink defines the interfaces between a client's socket and its channels, and the
// counters and limits that they share.
package clientlink

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/loop"
	"bennu.example/serializer"
)

// ErrTaken is returned by Attach if another channel has the topic.
var ErrTaken = errors.New("topic is taken")

// ErrExited is the error of a user's function that did not return but ended its goroutine.
var ErrExited = errors.New("function ended its goroutine (runtime.Goexit)")

// Socket is the socket as seen by a channel.
type Socket interface {
	// Post enqueues a task for the loop. It is safe for concurrent use. It returns false once the
	// socket is closed and its loop has ended.
	Post(t loop.Task) bool
	// Done returns a channel that is closed once the socket is closed and its loop has ended.
	Done() <-chan struct{}
	// Closing returns the reason why no more pushes are accepted, or nil.
	Closing() error
	// Log returns the logger, which is never nil.
	Log() *zerolog.Logger
	// Total returns the counters of all channels of the socket.
	Total() *Totals

	// The following methods may only be called on the loop.

	Arm(t *loop.Timer, d time.Duration)
	Disarm(t *loop.Timer)
	// Overslept reports whether t ran out while the process was stopped, and then arms it again.
	Overslept(t *loop.Timer) bool
	// NextRef returns the next ref of the socket.
	NextRef() uint64
	// Send enqueues a message for the connection. The socket must be connected.
	Send(o Out)
	// IsCongested reports whether more than 64 KiB of pushes wait for the network.
	IsCongested() bool
	// Withdraw removes the message with that ref from the queue, if it has not been written.
	Withdraw(ref uint64)
	// Attach routes the messages of a topic to c. If busy is true, another channel is still leaving
	// the topic, and Freed is called when that channel is detached. Attach returns ErrTaken if
	// another channel has the topic and is not leaving it, or the socket's error if the socket is
	// closed.
	Attach(topic string, c Channel) (busy bool, err error)
	Detach(topic string, c Channel)
	// IsOpen reports whether the socket is connected.
	IsOpen() bool
	// Auth returns the state of the authentication. Channel.AuthChanged is called when it changes.
	Auth() Auth
	// Joins returns the queue of the socket's joins. The socket runs it after each batch of the loop.
	Joins() *JoinQueue
	// SendJoins runs the queue now, so that joins are sent before what follows.
	SendJoins()
	// Connection returns the number of the present connection, or of the last one.
	Connection() uint64
	// PushOwn pushes an event on the channel $socket. Done, which may be nil, is called with the
	// reply if that comes before the end of the connection. PushOwn returns false if the server
	// does not have the channel.
	PushOwn(event string, payload serializer.Payload, done func(m *serializer.Message)) bool
	// WatchesChanges reports whether Changed wants changes.
	WatchesChanges() bool
	// Changed is called with a channel.Change, and with its size in a stream.
	Changed(change any, size int)
	// Own reports whether the client joins $socket, and whether the server has accepted that on this
	// connection: then it knows the extensions of the protocol.
	Own() (wanted, joined bool)
	// BeginPush registers a push that expects a reply, for the callers that wait for all replies.
	// EndPush must be called with its result when the push has been answered.
	BeginPush() uint64
	// Pushed registers a push whose payload has that many bytes, for Progress. Answered must be
	// called with the result of BeginPush when it has been answered; ok means the status "ok".
	Pushed(bytes int)
	Answered(n uint64, bytes int, ok bool)
	EndPush(n uint64)
}

// Auth is the state of a socket's authentication, as far as it concerns channels.
type Auth uint8

const (
	AuthPending Auth = iota // there is no connection, or the server has not answered yet
	AuthGranted             // the client is authenticated, or the server does not tell
	AuthMissing             // the client is anonymous
	AuthExpired             // the server refuses joins and pushes until it gets another token
)

// Values of push.Reason by which the server refuses or ends channels because of the authentication.
const (
	TokenExpired = "token expired"
	LoggedOut    = "deauthenticated"
)

// TooManyJoins is the value of push.Reason by which the server refuses joins beyond its rate.
const TooManyJoins = "too many joins"

// Channel is a channel as seen by its socket. Its methods are called on the loop.
type Channel interface {
	// Receive handles a message of the channel's topic.
	Receive(m *serializer.Message)
	// Opened is called when the socket has connected.
	Opened()
	// Unsent returns a message that was not written before the connection was lost. It is called
	// just before Closed.
	Unsent(o *Out)
	// Closed is called when the connection was lost or could not be established.
	Closed(err error)
	// AuthChanged is called when the socket's authentication has changed.
	AuthChanged(a Auth)
	// Rejoin implements channel.Client.Rejoin.
	Rejoin()
	// Woke is called when the machine or the network came back.
	Woke()
	// Freed is called when the channel that was leaving the topic has been detached, if Attach
	// returned busy.
	Freed()
	// Refused is called if a message could not be encoded and therefore was not sent.
	Refused(ref uint64, err error)
	// End is called when the socket is closed permanently.
	End(err error)
	// LeaveMessage returns the message that leaves the topic, if the server may have the channel. It
	// is used when the connection is about to be closed; no reply is expected.
	LeaveMessage() (o Out, ok bool)
	// IsSettled reports whether no push is waiting to be sent and no caller is waiting for a reply, of
	// the pushes up to a number that BeginPush returned.
	IsSettled(until uint64) bool
	// IsLeaving reports whether another channel may take the topic.
	IsLeaving() bool
}

// Out is an outgoing message.
type Out struct {
	Msg  serializer.Message
	Ref  uint64  // the number in Msg.Ref, higher than that of every message sent before
	Size int     // bytes that count against the budget; 0 if Hold is nil
	Hold *Hold   // nil for anything but a push
	From Channel // nil for the socket's own messages

	Withdrawn bool // the message was withdrawn, and only its place in the queue remains
}

// Release returns o's reservation to its budget. Further calls do nothing.
func (o *Out) Release() {
	if o.Hold != nil {
		o.Hold.Release()
	}
}

// Totals holds the counters of a socket.
type Totals struct {
	Queued  Gauge         // pushes that are neither written nor answered
	Backlog Gauge         // events that wait for a callback or in a stream
	Dropped atomic.Uint64 // events dropped because the backlog was full
	Failed  Failures      // failures of pushes, for Flush
	Running Tracker       // queued or running user functions: callbacks, and those of the configuration

	// Events counts the events that were ever added to Backlog, with their bytes, and those that
	// nothing waits for. Only the loop may use it.
	Events struct {
		Count int
		Bytes int64
	}

	StreamID atomic.Uint64 // the number of the last stream
	Streams  atomic.Int64  // the streams of the channels that are attached, and of the socket
}

// MaxStreams bounds Totals.Streams.
const MaxStreams = 1000
