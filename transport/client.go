package transport

import (
	"net/http"
	"time"

	"bennu.example/serializer"
)

// ClientConn is the client's end of a connection. One goroutine reads. The other methods may be
// called from any goroutine. The caller of Dial must close it, also after an error of Read or
// Write.
type ClientConn interface {
	// Read blocks until the next frame arrives. The caller may keep data. Frames arrive in the order
	// in which the server sent them. Every error is final, and further calls return it again:
	//
	//   - A *CloseError, by errors.As, if the server ended the connection or this end found it
	//     unusable. Its code is that of phoenix.js for the same event. It wraps the cause, if any.
	//   - ErrClosed, by errors.Is, after Close.
	//   - Any other error is an error of the network. In phoenix.js its code is 1006.
	Read() (op serializer.Op, data []byte, err error)

	// Write sends frames, in order, with as few system calls or requests as possible. The frames must
	// not change afterwards. On a WebSocket it blocks until the network has accepted them, at most for
	// WriteTimeout. On long poll it blocks until the last of its requests is answered, each of which
	// may take RequestTimeout.
	//
	// A nil error does not mean that the server received the frames. An error means that the
	// connection has ended or is ending, and that some of the frames may have been sent. Read returns
	// the reason.
	Write(frames ...*serializer.Frame) error

	// Batch returns how many of the frames, counted from the first, one Write would send in one system
	// call or request. It is at least 1 if there are frames. If a caller writes no more than that at a
	// time and the connection ends, the caller knows that none of the other frames was sent.
	Batch(frames []*serializer.Frame) int

	// Close ends the connection. A WebSocket performs the close handshake with code and reason. Zero,
	// or a code that must not be sent, closes without a code. A reason of more than 123 bytes is
	// truncated. Long poll has no close handshake: it lets a Write in progress finish and abandons its
	// session.
	//
	// Close takes at most about CloseTimeout, also if the network is dead, and leaves no goroutine
	// behind. Read returns when Close does, if not before. Only the first call has an effect; others
	// wait for it. An error means that the server was not notified properly.
	Close(code int, reason string) error

	// Bytes returns how many bytes were received and sent so far. On a WebSocket it counts all bytes
	// after the handshake, on long poll those of the bodies.
	Bytes() (in, out uint64)
}

// ClientConfig configures Dial of either transport. Dial reads it and does not keep it.
type ClientConfig struct {
	// URL is the endpoint as the server mounts it, such as "wss://example.com/socket". Either
	// transport accepts the schemes http, https, ws and wss. "/websocket" or "/longpoll" is appended
	// to the path. A query in it is sent before Params.
	URL string

	// Params are the parameters of the connection, encoded as a query.
	Params string

	// Vsn is the version of the serializer: see serializer.Vsn. It is sent last in the query. Empty
	// means "2.0.0".
	Vsn string

	// AuthToken is sent outside of the URL: as a subprotocol of the WebSocket, or as a header of long
	// poll's GET requests. Empty means no token.
	AuthToken string

	// Header is added to every request. "Host" in it replaces the host of the URL. The values of
	// "Sec-WebSocket-Protocol" are offered to the server together with AuthToken.
	Header http.Header

	// HTTPClient makes the requests. Its Transport has the TLS configuration and the proxy. Its
	// Timeout bounds the WebSocket handshake and is otherwise ignored. Nil means a client with
	// http.DefaultTransport.
	//
	// Each connection uses a clone of an *http.Transport, so that no attempt uses a connection of an
	// earlier one. Protocols that were added by Transport.RegisterProtocol are not cloned.
	//
	// Any other RoundTripper is used as it is. If it has a method CloseIdleConnections, that is called
	// after each long-poll session. It must itself detect that a connection in use is dead. With
	// HTTP/2, set http.HTTP2Config.SendPingTimeout for that.
	//
	// At most 5 redirects are followed, and only to the same scheme, host and port, with the same vsn
	// in the query. CheckRedirect decides about these. The client sends no Referer of its own.
	HTTPClient *http.Client

	// MaxMessage bounds one received message, in bytes. Zero means 16 MiB, because the presence state
	// of a large room is large, and a client that refuses it would only reconnect for it. A larger
	// message ends the connection with CodeTooBig. A long-poll response may have four times that for
	// all its messages.
	MaxMessage int64

	// WriteTimeout bounds a Write to a WebSocket. Zero means 10 s.
	WriteTimeout time.Duration

	// CloseTimeout bounds how long Close waits: on a WebSocket for the server's close frame, on long
	// poll for the requests of a Write in progress. Zero means 1.5 s.
	CloseTimeout time.Duration

	// RequestTimeout bounds a long-poll request, including the whole response. Zero means 30 s. For
	// the opening request, the deadline of Dial's context counts if it is earlier.
	RequestTimeout time.Duration

	// PollTimeout bounds a poll, which the server answers when there are messages or its window has
	// passed. Zero means RequestTimeout. The server's window is unknown. A caller that sends
	// heartbeats can set it to more than any window, because the replies show that the connection
	// works.
	PollTimeout time.Duration
}
