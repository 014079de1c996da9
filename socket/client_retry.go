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
	// Advice is the time that the server asks the client to wait: in the header Retry-After of an
	// answer with 429 or 503, or on the channel $socket before it closes the connection. It is at most
	// 5 min. Zero means that the server did not ask. The client waits at least as long, whatever
	// ReconnectDelay returns. After 429 or 503 it waits up to a quarter longer, so that clients that
	// were refused do not return together.
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

// reconnectDelay returns the delay before the next attempt. A negative delay gives up. The delay
// advised comes from the channel $socket. It needs no jitter, because it is random.
func (c *Client) reconnectDelay(r Retry, advised time.Duration) time.Duration {
	spread := r.Advice
	r.Advice = max(r.Advice, advised)
	d := c.cfg.ReconnectDelay(r)
	if d < 0 {
		return d
	}
	d = max(d, r.Advice)
	if spread > 0 {
		d += rand.N(d / 4)
	}
	return d
}

// clientReconnectDelay returns the default of ClientConfig.ReconnectDelay.
func clientReconnectDelay() func(Retry) time.Duration {
	delay := clientJitter(clientReconnectTable, clientSpread)
	return func(r Retry) time.Duration {
		switch isRestart := r.Code == transport.CodeGoingAway || r.Code == transport.CodeRestart; {
		case !isRestart || r.Tries > 1:
			return delay(r.Tries)
		case r.Advice > 0:
			return 0 // the server has spread its clients
		}
		return rand.N(clientSpread)
	}
}
