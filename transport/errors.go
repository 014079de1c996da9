package transport

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Close codes. Except for CodeSessionGone they are those of RFC 6455 that this project sends. A
// server never closes with 1000, because phoenix.js up to 1.8.12 does not reconnect after it.
const (
	CodeGoingAway  = 1001 // disconnected by id
	CodeProtocol   = 1002 // the client was idle for too long, or violated the WebSocket protocol
	CodeBadUTF8    = 1007 // a text message was not UTF-8
	CodeTooBig     = 1009 // a message was too large
	CodeInternal   = 1011 // a malformed message, or an error of the session
	CodeRestart    = 1012 // the server shuts down
	CodeOverloaded = 1013 // the client reads too slowly

	// CodeSessionGone is the code of a long-poll session that the server does not know any more, as
	// in phoenix.js. It is never sent.
	CodeSessionGone = 3410
)

var (
	// ErrClosed is returned by Send on a connection that has ended or is ending.
	ErrClosed = errors.New("transport: connection closed")
	// ErrFull is returned by Send when the queue is full and the policy does not drop anything. The
	// connection is ending.
	ErrFull = errors.New("transport: client reads too slowly: its queue is full")
	// ErrNoRoom is returned by Send for a frame of Delivery.IfRoom that was not sent. The connection
	// goes on.
	ErrNoRoom = errors.New("transport: no room for a frame that can be sent later")
	// ErrIdle is the reason for the end of a connection whose client sent nothing for too long.
	ErrIdle = errors.New("transport: client sent nothing for too long")
	// ErrURL is wrapped by errors of dialing that no retry can cure: the URL, the parameters, the
	// version or the token cannot be part of a request.
	ErrURL = errors.New("transport: invalid URL, parameters or token")
)

// CloseError is the close code and the reason with which a connection ended, or shall end. A
// WebSocket sends both in its close frame. On long poll they end the session.
type CloseError struct {
	Code int
	// Reason may be sent to the client, so it must not contain secrets. It is truncated to 123 bytes.
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("transport: closed with %d", e.Code)
	}
	return fmt.Sprintf("transport: closed with %d: %s", e.Code, e.Reason)
}

// HandshakeError is returned by Dial if the server, or a proxy before it, refused the connection.
type HandshakeError struct {
	// StatusCode is the status of the HTTP response. It is 200 if the response was malformed, and 3xx
	// if it was a redirect that the client does not follow. If a long-poll session was refused, it is
	// the status in the body.
	StatusCode int
	Header     http.Header
	Body       []byte // the first 4 KiB
}

func (e *HandshakeError) Error() string {
	text := http.StatusText(e.StatusCode)
	switch {
	case e.StatusCode < 300:
		text += ", but the response is not that of a socket"
	case e.StatusCode < 400:
		text += ", a redirect that is not followed"
	}
	return fmt.Sprintf("transport: server refused the connection: %d %s", e.StatusCode, text)
}

// RetryAfter returns the delay before the next attempt that the server requests with the header
// Retry-After of a response with 429 or 503. The header contains seconds or a date, which is
// compared with the date of the response. Zero means that the server requests no delay.
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
