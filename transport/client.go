package transport

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"bennu.example/serializer"
)

// CodeSessionGone is the code of a long-poll session that the server no longer knows. It is phoenix.js's, and is never sent.
const CodeSessionGone = 3410

// ErrURL is wrapped by the errors of dialing that no retry can mend: an endpoint, query, version or token that makes no request.
var ErrURL = errors.New("cannot make a request")

// ClientConn is a client's end of a connection. One goroutine reads; the other methods may be called from any goroutine.
// Whoever dialed it must close it, also after an error of Read or Write.
type ClientConn interface {
	// Read blocks until the next frame is there; data is the caller's to keep. The frames are in the order in which the
	// server sent them. Any error is final, and every further Read returns it again. By errors.As it is a *CloseError if the
	// server ended the connection or this end found it unusable: the code is what phoenix.js makes of the same event, and what
	// it comes from, if anything, is wrapped beside it. By errors.Is it is ErrClosed once Close was called here. Anything else is
	// what the network said, phoenix.js's 1006.
	Read() (op serializer.Op, data []byte, err error)

	// Write sends the frames, in order, with as few system calls or requests as possible. The frames must not change
	// afterwards. On a WebSocket it blocks for as long as the network makes it, but not longer than WriteTimeout. On long
	// poll it blocks until the last of its requests is answered, each of which may take RequestTimeout.
	//
	// Nil means that the frames are on their way, not that they have arrived. An error means that the connection has
	// ended or is ending, and that some of the frames may have been sent; Read returns the reason.
	Write(frames ...*serializer.Frame) error

	// Batch returns how many of the frames, from the first, one Write would send together: in one system call or request.
	// It is at least 1 if there are frames. A caller that writes no more than that at a time knows, when the connection
	// ends, that none of the other frames was sent.
	Batch(frames []*serializer.Frame) int

	// Close ends the connection: a WebSocket by the close handshake with code and reason, long poll by letting a Write in
	// progress finish and giving its session up, for long poll cannot say goodbye. Code 0, or one that may not be sent, closes without a
	// code; a reason of more than 123 bytes is cut. It takes at most about CloseTimeout, also if the network is dead, and leaves no
	// goroutine. Read returns when Close does, if not before. Only the first call counts; the others wait for it. The error says
	// that the peer was not told properly.
	Close(code int, reason string) error

	// Bytes are those received and sent so far: on a WebSocket all after the handshake, on long poll the bodies.
	Bytes() (in, out uint64)
}

// ClientConfig says what to dial. Zero values mean the defaults. It is read while dialing and not kept.
type ClientConfig struct {
	// URL is the endpoint as the server mounts it, "wss://example.com/socket". The scheme may be http, https, ws or wss, for either
	// transport; "/websocket" or "/longpoll" is appended to the path. A query in it is kept and comes first.
	URL string

	// Params is the query that the server gets as the connection's parameters, already encoded: see EncodeParams.
	Params string

	// Vsn is the version of the serializer, see serializer.Vsn. It comes last in the URL. "" is "2.0.0".
	Vsn string

	// AuthToken goes to the server outside of the URL: as a subprotocol of the WebSocket, as a header of long poll's GETs.
	// "" is none.
	AuthToken string

	// Header is added to every request. "Host" replaces the URL's host there; what "Sec-WebSocket-Protocol" lists is offered to the
	// server beside the AuthToken.
	Header http.Header

	// HTTPClient makes the requests; its Transport has the TLS configuration and the proxy. Its Timeout bounds the WebSocket
	// handshake and is otherwise ignored. Nil means a client with http.DefaultTransport.
	//
	// Each connection uses a clone of an *http.Transport, so that no attempt depends on what is left of an earlier one.
	// Protocols added by Transport.RegisterProtocol are not cloned. Any other RoundTripper is used as it is: its idle
	// connections are closed after each long-poll session, if it has a method CloseIdleConnections, and it must itself find
	// out that a connection in use is dead. With HTTP/2, set http.HTTP2Config.SendPingTimeout for that.
	//
	// At most 5 redirects are followed, and only those that keep the scheme, the host, the port and the vsn in the query.
	// CheckRedirect decides about these. No Referer is sent.
	HTTPClient *http.Client

	// MaxMessage bounds one received message, in bytes; a larger one ends the connection with CodeTooBig. A long-poll answer may have
	// four times that for all its messages. 0 is 16 MiB: presence states of big rooms are large, and a client that refuses one
	// would only come back for it.
	MaxMessage int64

	// WriteTimeout is how long a Write to a WebSocket may take. Zero means 10 s.
	WriteTimeout time.Duration

	// CloseTimeout is how long the peer may take to answer the close frame, or the requests of a Write that is in progress.
	// Zero means 1.5 s.
	CloseTimeout time.Duration

	// RequestTimeout is how long a long-poll request may take, until its whole answer has come. Zero means 30 s. The timeout
	// of the opening request is the same, or that of the context, if it is earlier.
	RequestTimeout time.Duration

	// PollTimeout is the same for a poll, which the server holds until there are messages or its window is over. Zero means
	// RequestTimeout. A caller that sends heartbeats can make it longer than that of any of these, for the server's window
	// is not known: their replies show that the connection works.
	PollTimeout time.Duration
}

// HandshakeError is a connection that the server refused, or an answer that is not its own: a proxy's, a portal's.
type HandshakeError struct {
	// StatusCode is HTTP's, 200 if the answer made no sense; of a long-poll session that was refused it is the body's status.
	// 3xx is a redirect that is not followed.
	StatusCode int
	Header     http.Header
	Body       []byte // the first 4 KiB
}

func (e *HandshakeError) Error() string {
	text := http.StatusText(e.StatusCode)
	switch {
	case e.StatusCode < 300:
		text += ", but what answers is no socket"
	case e.StatusCode < 400:
		text += ", which is not followed"
	}
	return fmt.Sprintf("transport: server refused the connection: %d %s", e.StatusCode, text)
}

// RetryAfter is how long the server asks to wait before the next attempt, by the header Retry-After of an answer with 429
// or 503: in seconds, or as a date, which is compared with the answer's own. Zero means that it does not ask.
func (e *HandshakeError) RetryAfter() time.Duration {
	if e.StatusCode != http.StatusTooManyRequests && e.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	text := e.Header.Get("Retry-After")
	if isDigits := strings.Trim(text, "0123456789") == ""; isDigits {
		n, err := strconv.ParseInt(text, 10, 32)
		switch {
		case errors.Is(err, strconv.ErrRange):
			n = math.MaxInt32
		case err != nil: // empty
			return 0
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(e.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(at.Sub(now), 0)
}
