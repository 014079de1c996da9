package socket

import (
	"errors"
	"math/rand/v2"
	"time"

	"bennu.example/transport"
)

// Retry is what [ClientConfig.ReconnectDelay] knows of the attempt that it decides about.
type Retry struct {
	// Tries is the number of the attempt, from 1. It starts again when a connection has held for 5 s, and when Connect is called.
	Tries int
	// Cause is why there is no connection, as in State.Cause.
	Cause error
	// Advice is how long the server asks to wait, by the header Retry-After of an answer with 429 or 503. It is at most
	// 5 min. Zero means that it does not ask. The client waits at least as long as this, whatever the function returns, and
	// up to a quarter longer, so that the clients that were sent away do not come back together.
	Advice time.Duration
	// Code is the code of the close that ended the connection, or the HTTP status by which an attempt was refused. Zero
	// means neither: the network failed.
	Code int
}

// clientMaxAdvice bounds how long a server can keep a client away.
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

// adviceOf is how long the server asks to wait, if it was the server that caused err.
func adviceOf(err error) time.Duration {
	var refused *transport.HandshakeError
	if !errors.As(err, &refused) {
		return 0
	}
	return min(refused.RetryAfter(), clientMaxAdvice)
}

// reconnectDelay is how long to wait before the next attempt; negative gives up.
func (c *Client) reconnectDelay(r Retry) time.Duration {
	d := c.cfg.ReconnectDelay(r)
	if d < 0 || r.Advice == 0 {
		return d
	}
	d = max(d, r.Advice)
	return d + rand.N(d/4)
}
