package socket

import (
	"time"

	"bennu.example/serializer"
)

const (
	// clientAdviceValid is the time within which a connection must end for advice to count.
	clientAdviceValid = time.Minute
	// clientMaxWithin bounds the time that a client takes for a move.
	clientMaxWithin = time.Minute
)

// clientAdvice is the last advice on the current connection. It belongs to the loop.
type clientAdvice struct {
	after time.Duration // the delay before the next attempt
	until time.Time     // the advice counts if the connection ends before
}

// advised handles the event advice on $socket.
func (c *Client) advised(m *serializer.Message) {
	var p advicePayload
	if err := m.Payload.Decode(&p); err != nil {
		c.cfg.Logger.Debug().Err(err).Msg("malformed advice ignored")
		return
	}
	c.advice = clientAdvice{milliseconds(p.AfterMS, clientMaxAdvice), time.Now().Add(clientAdviceValid)}
	c.cfg.Logger.Debug().Str("reason", clip(p.Reason)).Dur("after", c.advice.after).Msg("server advises to reconnect")
	if within := milliseconds(p.WithinMS, clientMaxWithin); within > 0 {
		c.beginMove(within)
	}
}

// milliseconds returns a duration between zero and most.
func milliseconds(ms float64, most time.Duration) time.Duration {
	switch {
	case !(ms > 0):
		return 0
	case ms >= float64(most.Milliseconds()):
		return most
	}
	return time.Duration(ms * float64(time.Millisecond))
}

// takeAdvice returns the delay that the server advised for the next attempt, or zero. The advice
// counts once.
func (c *Client) takeAdvice() time.Duration {
	a := c.advice
	c.advice = clientAdvice{}
	if time.Now().After(a.until) {
		return 0
	}
	return a.after
}
