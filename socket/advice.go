package socket

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"bennu.example/channel"
	"bennu.example/transport"
)

// eventAdvice asks a client to reconnect. It is sent on the channel $socket.
const eventAdvice = "advice"

// reasonRestart is the reason of the advice that Shutdown sends.
const reasonRestart = "restart"

// maxReason is the length of a reason that is sent to clients, in bytes, as in the close frame of a
// WebSocket.
const maxReason = 123

// advicePayload is the payload of eventAdvice. The client decodes it, too. It has floating-point
// numbers, so that a number of any size is valid.
type advicePayload struct {
	// AfterMS is the time that the client should wait before it connects again, once this connection
	// has ended.
	AfterMS float64 `json:"after_ms"`
	Reason  string  `json:"reason"`
	// WithinMS is the time until this connection ends, for clients that move. Zero means that the
	// client does not move.
	WithinMS float64 `json:"within_ms,omitempty"`
}

func clipReason(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// notice returns the time between the advice and the close of a connection.
func (d *Drain) notice(moves bool) time.Duration {
	switch {
	case d.Notice != 0:
		return max(d.Notice, 0)
	case moves:
		return defaultMoveNotice
	}
	return defaultDrainNotice
}

// advise sends advice to the session's client. It returns false if the client has not joined
// $socket, and whether the client moves to another connection.
func (s *session) advise(d *Drain, reason string) (advised, moves bool) {
	own := s.own.Load()
	if own == nil {
		return false, false
	}
	own.isAdvised.Store(true)
	p := advicePayload{Reason: reason}
	if d.Spread > 0 {
		p.AfterMS = float64(rand.N(d.Spread).Milliseconds())
	}
	if own.moves {
		p.WithinMS = float64(d.notice(true).Milliseconds())
	}
	err := own.c.Push(eventAdvice, p)
	if errors.Is(err, channel.ErrNotJoined) {
		err = own.c.Send(p) // after the reply to the join
	}
	return err == nil, own.moves // an error: it has left $socket
}

// advise sends the advice of a message that the channel sent to itself during its join.
func (*socketState) advise(_ context.Context, c *channel.Channel, p advicePayload) error {
	return c.Push(eventAdvice, p)
}

// terminate closes a connection that was to be closed after a notice, because a client that has
// left $socket does not use the notice.
func (o *socketState) terminate(context.Context, *channel.Channel, error) {
	if o.isAdvised.Load() {
		o.s.conn.Close(transport.CodeRestart, "")
	}
}

// departures closes sessions in batches. The clients that joined $socket are notified first.
type departures struct {
	h      *Handler
	reason string
	left   []*session // not yet notified
	next   time.Time  // when the next batch is due
	// The sessions that were notified, in the order in which they are due: those whose clients stay
	// until the end, and those whose clients move.
	notified [2][]notified
}

// notified is the sessions of a batch that were notified together.
type notified struct {
	due      time.Time
	sessions []*session
}

func (h *Handler) depart(all []*session, reason string) *departures {
	return &departures{h: h, reason: reason, left: all, next: time.Now()}
}

// run closes all sessions, unless ctx ends first or the handler is gone.
func (d *departures) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, ok := d.due()
		if !ok {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-d.h.gone:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		d.step(due)
	}
}

// due returns when the next step is due. It returns false if there is none.
func (d *departures) due() (at time.Time, ok bool) {
	if len(d.left) > 0 {
		at, ok = d.next, true
	}
	for _, queue := range d.notified {
		if len(queue) > 0 && (!ok || queue[0].due.Before(at)) {
			at, ok = queue[0].due, true
		}
	}
	return at, ok
}

// step does what is due at that time.
func (d *departures) step(at time.Time) {
	for i, queue := range d.notified {
		for len(queue) > 0 && !queue[0].due.After(at) {
			closeAll(queue[0].sessions)
			queue = queue[1:]
		}
		d.notified[i] = queue
	}
	if len(d.left) == 0 || d.next.After(at) {
		return
	}
	drain := &d.h.cfg.Drain
	n := min(drain.Batch, len(d.left))
	var batch [2][]*session
	for _, s := range d.left[:n] {
		advised, moves := false, false
		if drain.Notice >= 0 {
			advised, moves = s.advise(drain, d.reason)
		}
		switch {
		case !advised:
			s.conn.Close(transport.CodeRestart, "")
		case moves:
			batch[1] = append(batch[1], s)
		default:
			batch[0] = append(batch[0], s)
		}
	}
	for i, sessions := range batch {
		if len(sessions) > 0 {
			d.notified[i] = append(d.notified[i], notified{time.Now().Add(drain.notice(i == 1)), sessions})
		}
	}
	d.left = d.left[n:]
	d.next = time.Now().Add(drain.Interval)
}

// closeRest closes the sessions that remain.
func (d *departures) closeRest() {
	for _, queue := range d.notified {
		for _, n := range queue {
			closeAll(n.sessions)
		}
	}
	closeAll(d.left)
}

func closeAll(all []*session) {
	for _, s := range all {
		s.conn.Close(transport.CodeRestart, "")
	}
}

// Advise moves clients away without a shutdown, for example to another node that has less load. It
// selects that fraction of the connections at random, rounded up, sends them advice, and closes
// them with code 1012, as Shutdown does with all: in batches and with the notice of Config.Drain.
// The balancer decides which node the clients reconnect to, and that may be this one.
//
// The reason, such as "move" or "overload", is sent to the clients that joined $socket, which may
// show it. It has at most 123 bytes; a longer one is truncated.
//
// Advise returns when all of these connections were closed. If ctx ends first, it returns the
// context's error, wrapped, and the other connections stay open. It returns nil early if the
// handler shuts down meanwhile.
func (h *Handler) Advise(ctx context.Context, reason string, fraction float64) error {
	if !(fraction >= 0 && fraction <= 1) {
		return fmt.Errorf("socket: advise: fraction %v is not between 0 and 1", fraction)
	}
	h.mu.Lock()
	all := slices.Collect(maps.Keys(h.sessions))
	h.mu.Unlock()
	rand.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	n := int(math.Ceil(fraction * float64(len(all))))
	if err := h.depart(all[:n], clipReason(reason)).run(ctx); err != nil {
		return fmt.Errorf("socket: advise: %w", err)
	}
	return nil
}
