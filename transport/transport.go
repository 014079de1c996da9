// Package transport carries frames by WebSocket or long polling, at either end.
//
// Programs use package socket, and find here what they say to it: [WebSocketConfig], [LongPollConfig] and the policies for slow clients, from
// [Disconnect] to [KeepLatest]; and what it says to them: [CloseError], [HandshakeError] and the counts.
//
// At the server's end a transport owns the connection and drives a [Session], which package socket implements; the session
// answers through its [Conn]. A session gets one frame at a time, in order, and then learns once why the connection ended. A Conn may be
// used from any goroutine, and never blocks.
//
// At the client's end, [DialWebSocket] and [DialLongPoll] make a [ClientConn]: one goroutine reads, any may write, and whoever dialed closes.
package transport

import (
	"errors"
	"fmt"

	"bennu.example/serializer"
)

// Close codes of RFC 6455 that this project sends. A server never closes with 1000: phoenix.js would not come back.
const (
	CodeGoingAway  = 1001 // disconnected by id
	CodeProtocol   = 1002 // idle for too long, or not WebSocket
	CodeBadUTF8    = 1007
	CodeTooBig     = 1009
	CodeInternal   = 1011 // a message that is none
	CodeRestart    = 1012 // the server is going down
	CodeOverloaded = 1013 // the client reads too slowly
)

var (
	// ErrClosed is returned by Send on a connection that has ended or is ending.
	ErrClosed = errors.New("connection closed")
	// ErrFull is returned by Send when the queue has no room and the policy does not make some. The connection is ending.
	ErrFull = errors.New("client reads too slowly: its queue is full")
	// ErrNoRoom is returned by Send for a frame of Delivery.IfRoom that was not sent. The connection
	// goes on.
	ErrNoRoom = errors.New("no room for a frame that can be sent later")
	// ErrIdle is the reason of a connection's end when the client sent nothing for too long.
	ErrIdle = errors.New("client sent nothing for too long")
)

// CloseError is how a connection ended, or is to end. A WebSocket sends Code and Reason in its close frame, long polling
// ends the session. Its text may reach the client: at most 123 bytes, nothing secret.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("transport: closed with %d", e.Code)
	}
	return fmt.Sprintf("transport: closed with %d: %s", e.Code, e.Reason)
}

// Conn is the server's end of a connection, as its session sees it. Its methods may be called from any goroutine, also under
// locks: they never block and never call back.
//
// A connection is congested when the frames that its client's own messages caused take more than half of MaxQueue. Until they take at most a
// quarter, no further message of the client is handed to the session, nor is one read.
type Conn interface {
	// Send queues f behind all that was sent before. If it finds no room (in bytes, MaxQueue), then how says whether it is dropped, others
	// are, or the connection ends with CodeOverloaded. A frame of any size fits in an empty queue. The error is ErrClosed or ErrFull; a
	// frame that was dropped is no error.
	Send(f *serializer.Frame, how Delivery) error

	// Congested reports whether the connection is congested. If so, resume is called once when it no longer is or has ended, from any
	// goroutine and under no lock. It must not block. A later call replaces the function, unless its own is nil: that one only asks.
	Congested(resume func()) bool

	// Drained reports whether less than a quarter of MaxQueue waits for the client, or the connection
	// has ended. If not, f is called once when that is so, from any goroutine and under no lock. It
	// must not block. A later call replaces f.
	//
	// A frame of Delivery.IfRoom is sent if the connection is drained, or if less than half of
	// MaxQueue waits and the frame takes at most the other half. What the client's own messages caused
	// does not count.
	Drained(f func()) bool

	// Close ends the connection once what is queued was written, or a short time has passed. Only the first call counts.
	Close(code int, reason string)
}

// Session is what a connection carries. A transport calls Receive for one frame at a time, in order, and Closed exactly once,
// when no Receive is running and none will.
type Session interface {
	// Receive takes a frame; data is the session's to keep. It may block for a moment, which slows the client down. An error ends
	// the connection: with its code if it is a *CloseError, else with CodeInternal.
	Receive(op serializer.Op, data []byte) error

	// Closed tells that the connection ended and why: a *CloseError if one side closed it, ErrIdle, ErrFull, or what the network
	// said. It may block until the session's channels have ended.
	Closed(err error)
}
