// Package websocket is the WebSocket transport: the server's end and the client's end.
//
// A [Server] upgrades requests and calls one transport.Session for each connection. [Dial] opens a
// client's connection.
//
// # The life of a server's connection
//
// [Server.Serve] answers the handshake through net/http, takes the network connection from it, and
// returns.
//
// On Linux, the connection then has no goroutine. The poller, one goroutine of the Server, waits
// for all connections. When some of them are readable or were closed, a few goroutines, the
// readers, go from one to the next. Each reads what has arrived into a buffer from a pool, parses
// the frames in it, and leaves the connection. If the network was read to its end and the last
// message is one for an idle mailbox of the session, the reader first gives up the connection,
// which may then get another one, and then runs that mailbox itself: it calls the user's callback,
// and may write the reply. If the callback blocks, the poller and the other readers go on, and as
// many readers are started as there are callbacks that block.
//
// Elsewhere, and with TLS, one goroutine is the connection's reader. It waits without a buffer and
// with a small stack, and lets other goroutines run the mailboxes.
//
// Most frames arrive whole: a message in one frame, not compressed, or a ping, pong or close frame.
// The reader handles these itself. The first frame of any other kind makes an instance of
// github.com/coder/websocket for the connection, which reads from the same buffer: parts of frames,
// messages in fragments, compressed messages, and everything that violates the protocol. It decides
// what the violation is. Between two messages the reader parses frames itself again, except after a
// compressed message. The instance is dropped when the client pauses, on Linux for 200 ms.
//
// The reader passes each message to the session itself, so a slow session slows down the client.
// Nothing is read while too many answers wait for the client.
//
// Frames to the client wait in a queue. A few goroutines, the writers, serve the queues of all
// connections, and never wait for a client. If the kernel accepts no more for one, a goroutine of
// its own writes until the queue is empty.
//
// A connection ends when the client sends a close frame or violates the protocol, when the session
// or a timeout ends it, or when the network fails. In all cases but the last, the server sends a
// close frame after everything that is queued, and half-closes TCP unless the client's close frame
// came first. The reader then drops what the client still sends, and calls the session's Closed
// last.
package websocket
