// Package websocket is the WebSocket transport: the server's end and the client's end.
//
// A [Server] upgrades requests and calls one transport.Session for each connection. [Dial] opens a
// client's connection.
//
// # The life of a server's connection
//
// [Server.Serve] answers the handshake through net/http, takes the network connection from it, and
// returns. From then on, one goroutine, the reader, belongs to the connection. It waits until the
// connection is readable, without a buffer and with a small stack. Then it reads into a buffer from
// a pool, and parses the frames in it.
//
// On Linux, a connection whose client pauses for 200 ms is parked: a timeout interrupts the reader,
// which ends. The poller, one goroutine of the Server, waits for all parked connections. When one
// of them is readable or was closed, a new reader goes on. A client that sends something now and
// then has its connection parked again at once; one that sends more often keeps its reader.
//
// Most frames arrive whole: a message in one frame, not compressed, or a ping, pong or close frame.
// The reader handles these itself. The first frame of any other kind makes an instance of
// github.com/coder/websocket for the connection, which reads from the same buffer: parts of frames,
// messages in fragments, compressed messages, and everything that violates the protocol. It decides
// what the violation is. Between two messages the reader parses frames itself again, except after a
// compressed message. It drops the instance when the client pauses.
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
