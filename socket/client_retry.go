package socket

import (
	"errors"
	"math/rand/v2"
	"time"

	"bennu.example/transport"
)

// Retry describes the next attempt to connect, for [ClientConfig.ReconnectDelay].
type Retry struct {
	// Tries is the number of the attempt, from 1. It starts again when a connection has held for 5 s
	// and when Connect is called.
	Tries int
	// Cause is the reason why there is no connection, as in State.Cause.
	Cause error
	// Advice is the time that the server asks the client to wait, in the header Retry-After of an
	// answer with 429 or 503. It is at most 5 min. Zero means that the server did not ask. The client
	// waits at least as long, whatever ReconnectDelay returns, and up to a quarter longer, so that
	// clients that were refused do not return together.
	Advice time.Duration
	// Code is the code of the close that ended the connection, or the HTTP status that refused the
	// attempt. Zero means that the network failed.
	Code int
}

// clientMaxAdvice bounds Retry.Advice.
const clientMaxAdvice = 5 * time.Minute

func newRetry(tries int, cause error) Retry {
	r := Retry{Tries: tries, Cause: cause, Advice: adviceOf(cause)}
	var closed *transport.CloseError
	var refused *transport.HandshakeError
	switch {
	case errors.As(cause, &closed):
		r.Code = closed.Code
	case errors.As(cause, &refused):
		r.Code = refused.StatusCode
	}
	return r
}

// adviceOf returns the time that the server asks the client to wait, or zero.
func adviceOf(err error) time.Duration {
	var refused *transport.HandshakeError
	if !errors.As(err, &refused) {
		return 0
	}
	return min(refused.RetryAfter(), clientMaxAdvice)
}

// reconnectDelay returns the delay before the next attempt. A negative delay gives up.
func (c *Client) reconnectDelay(r Retry) time.Duration {
	d := c.cfg.ReconnectDelay(r)
	if d < 0 || r.Advice == 0 {
		return d
	}
	d = max(d, r.Advice)
	return d + rand.N(d/4)
}
