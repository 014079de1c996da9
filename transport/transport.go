// Package transport defines what the WebSocket and long-poll transports share: connections,
// sessions, close codes, errors, and the policies for slow clients.
//
// Most programs use package socket. They find here the values of socket.Config.OnSlow, from
// [Inherit] to [KeepLatest], and the errors of connections, [CloseError] and [HandshakeError].
//
// On the server, a transport owns the connection and calls a [Session], which package socket
// implements. The session sends through its [Conn]. The packages transport/websocket and
// transport/longpoll have the servers.
//
// On the client, websocket.Dial and longpoll.Dial return a [ClientConn]. One goroutine reads, any
// goroutine may write, and the caller of Dial must close it.
package transport

import "bennu.example/serializer"

// Conn is the server's end of a connection, as used by its session. Its methods never block and
// never call back. They may be called from any goroutine, also while locks are held. The exception
// is Send with Delivery.Now.
//
// A connection is congested when the frames that its client's own messages caused take more than
// half of MaxQueue. Until they take at most a quarter, the transport neither reads further messages
// of the client nor passes any to the session.
type Conn interface {
	// Send enqueues f. If the queue is full (MaxQueue bytes wait), how determines whether f or other
	// frames are dropped, or the connection ends with CodeOverloaded. A frame of any size fits in an
	// empty queue.
	//
	// It returns ErrClosed, ErrFull or, with Delivery.IfRoom, ErrNoRoom. It returns nil for a frame
	// that was dropped, and a nil error does not mean that the client received the frame.
	Send(f *serializer.Frame, how Delivery) error

	// Congested reports whether the connection is congested. If it is, the transport calls resume once
	// when the congestion or the connection has ended. It calls it from any goroutine, under no lock,
	// and resume must not block. A later call replaces the function, unless its own is nil.
	Congested(resume func()) bool

	// Drained reports whether less than a quarter of MaxQueue waits for the client, or the connection
	// has ended. If not, f is called once when that is so, from any goroutine and under no lock. It
	// must not block. A later call replaces f.
	//
	// A frame of Delivery.IfRoom is sent if the connection is drained, or if less than half of
	// MaxQueue waits and the frame takes at most the other half. Frames that the
	// client's own messages caused do not count.
	Drained(f func()) bool

	// Close ends the connection when all queued frames were written, or after a timeout. Only the
	// first call has an effect.
	Close(code int, reason string)
}

// Session is the user of a server's connection. A transport calls Receive for one frame at a time,
// in order. It calls Closed exactly once, after the last Receive has returned.
type Session interface {
	// Receive handles a frame. The session may keep data. It may block for a moment, which slows the
	// client down. An error ends the connection: with the code of a *CloseError, otherwise with
	// CodeInternal.
	Receive(op serializer.Op, data []byte) error

	// Closed is notified that the connection has ended. The error is a *CloseError if either end
	// closed it, ErrIdle, ErrFull, or an error of the network. If Receive panicked, it wraps a
	// *CloseError and a *channel.PanicError. Closed may block until the session has cleaned up.
	Closed(err error)
}
