package main

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// maxWait bounds the wait for everything that must happen eventually. Two shared cores run the
// whole test.
const maxWait = time.Minute

// client is a Bennu client. In addition to the rules of its checkers, each of its pushes must
// complete exactly once: with the expected reply, or with one of the errors that package push
// defines.
type client struct {
	report      *report
	schedule    *schedule
	name        string
	rng         *rand.Rand
	socket      *socket.Client
	memberships []*membership
	window      chan struct{} // has an element for each incomplete push
	pushed      atomic.Int64
	completed   atomic.Int64
}

// membership is a client in a room.
type membership struct {
	*checker
	client *client
	ch     *channel.Client
	who    atomic.Pointer[presence.Client]
	seq    uint64
	over   chan struct{} // closed when the channel is closed
}

// replyTimeout is the timeout of a reply, stalls included.
const replyTimeout = 10 * time.Second

// maxPending bounds the incomplete pushes of a client.
const maxPending = 32

func newClient(
	rep *report, sched *schedule, name, addr string, by socket.ClientTransport, ser serializer.Serializer, rng *rand.Rand,
) *client {
	c := &client{report: rep, schedule: sched, name: name, rng: rng, window: make(chan struct{}, maxPending)}
	soon := func(int) time.Duration { return 20*time.Millisecond + rand.N(200*time.Millisecond) }
	c.socket = socket.NewClient("ws://"+addr+"/strict", &socket.ClientConfig{
		Params:            map[string]string{"name": name},
		Serializer:        ser,
		Transport:         by,
		Timeout:           replyTimeout,
		HeartbeatInterval: time.Second,
		ReconnectDelay:    func(r socket.Retry) time.Duration { return soon(r.Tries) },
		RejoinAfter:       soon,
	})
	c.socket.OnState(func(s socket.State) {
		if s.Status == socket.StatusConnected {
			rep.count("connections by " + s.Transport)
		}
		if s.Status == socket.StatusFailed || s.Status == socket.StatusDenied {
			rep.fault("%s: %s: %v", name, s.Status, s.Cause)
		}
	})
	return c
}

// addMembership joins a room.
func (c *client) addMembership(topic string) {
	s := &membership{checker: newChecker(c.report, c.name, topic, false), client: c}
	s.list = func() (presence.State, bool) {
		who := s.who.Load()
		return who.List(), who.Synced()
	}
	c.memberships = append(c.memberships, s)
	s.join()
}

func (s *membership) join() {
	s.over = make(chan struct{})
	over := s.over
	s.ch = s.client.socket.Channel(s.topic, func(context.Context) (any, error) {
		return joinParams{s.name, s.report.clock.Add(1)}, nil
	})
	s.who.Store(presence.NewClient(s.ch, nil))
	s.ch.OnJoin(func(p serializer.Payload) {
		if a, ok := decode[answer](s.checker, p); ok {
			s.beginInterval(a.Generation)
		}
	})
	s.ch.OnError(func(err error) {
		if _, ok := errors.AsType[*channel.OverflowError](err); ok {
			s.recordDrop()
			return
		}
		s.endInterval()
	})
	s.ch.OnClose(func(error) {
		s.endInterval()
		close(over)
	})
	s.ch.On("message", func(p serializer.Payload) {
		if m, ok := decode[message](s.checker, p); ok {
			s.checkMessage(m)
		}
	})
	s.ch.On("tick", func(p serializer.Payload) {
		if m, ok := decode[tick](s.checker, p); ok {
			s.checkTick(m)
		}
	})
	s.ch.Join()
}

func decode[T any](w *checker, p serializer.Payload) (v T, ok bool) {
	if err := p.Decode(&v); err != nil {
		w.report.fault("%s in %s: %q cannot be decoded: %v", w.name, w.topic, p.Bytes(), err)
		return v, false
	}
	return v, true
}

// run performs random actions until ctx ends.
func (c *client) run(ctx context.Context) {
	c.socket.Connect()
	rolled := uint64(0)
	for pause(ctx, randN(c.rng, 40*time.Millisecond)) {
		if roll := c.schedule.roll.Load(); roll != rolled {
			rolled = roll
			for _, s := range c.memberships {
				s.say(ctx, roll)
			}
		} else if !c.schedule.quiet.Load() {
			c.act(ctx)
		}
	}
}

// act performs one random action. The weights are per mille.
func (c *client) act(ctx context.Context) {
	s := c.memberships[c.rng.IntN(len(c.memberships))]
	switch n := c.rng.IntN(1000); {
	case n < 600:
		s.say(ctx, 0)
	case n < 750:
		pad := padding(c.rng)
		s.push(ctx, "echo", message{Pad: pad}, 0, func(p serializer.Payload) {
			if m, ok := decode[message](s.checker, p); ok && m.Pad != pad {
				s.report.fault("%s in %s: echo of %d bytes came back as %d", s.name, s.topic, len(pad), len(m.Pad))
			}
		})
	case n < 830:
		s.push(ctx, "tick", 1+c.rng.IntN(5), 0, s.checkReplyTo("tick"))
	case n < 870:
		s.push(ctx, "refuse", nil, 0, nil)
	case n < 890:
		s.push(ctx, "ignore", nil, 200*time.Millisecond, nil)
	case n < 940:
		if p := s.push(ctx, "echo", message{}, 0, func(serializer.Payload) {}); p != nil {
			p.Cancel()
		}
	case n < 950:
		s.push(ctx, "crash", nil, 0, nil)
	case n < 985:
		s.leave(ctx)
	case n < 995:
		c.socket.Pause()
		pause(ctx, randN(c.rng, 300*time.Millisecond))
		c.socket.Connect()
		c.report.count("pauses")
	default:
		for range 100 { // a burst
			s.say(ctx, 0)
		}
	}
}

func padding(rng *rand.Rand) string {
	n := rng.IntN(100)
	if rng.IntN(10) == 0 {
		n = rng.IntN(4000)
	}
	return strings.Repeat("ä🜚"[:2+4*rng.IntN(2)], n)
}

func (s *membership) say(ctx context.Context, roll uint64) {
	s.seq++
	s.push(ctx, "say", message{Seq: s.seq, Roll: roll, Pad: padding(s.client.rng)}, 0, s.checkReplyTo("say"))
}

// checkReplyTo returns a function that checks the reply to "say" or "tick".
func (s *membership) checkReplyTo(event string) func(serializer.Payload) {
	return func(p serializer.Payload) {
		if a, ok := decode[answer](s.checker, p); ok {
			s.checkReply(event, a)
		}
	}
}

// push sends a push and calls ok with the reply, unless ok is nil. It returns nil if ctx ended
// while the number of incomplete pushes was at its limit.
func (s *membership) push(
	ctx context.Context, event string, payload any, timeout time.Duration, ok func(serializer.Payload),
) *push.Push {
	c := s.client
	select {
	case c.window <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	c.pushed.Add(1)
	p := s.ch.PushWithTimeout(event, payload, cmp.Or(timeout, replyTimeout))
	var times atomic.Int32
	once := func(serializer.Payload) {
		if n := times.Add(1); n > 1 {
			c.report.fault("%s in %s: %s completed %d times", s.name, s.topic, event, n)
			return
		}
		reply, err := p.Wait(context.Background()) // it has completed
		s.checkResult(event, reply, err, ok)
		c.completed.Add(1)
		<-c.window
	}
	for _, status := range []string{push.StatusOK, push.StatusError, push.StatusTimeout, push.StatusFailed} {
		p.Receive(status, once)
	}
	return p
}

// checkResult checks the result of a push.
func (s *membership) checkResult(event string, reply serializer.Payload, err error, ok func(serializer.Payload)) {
	refused, isRefused := errors.AsType[*push.Error](err)
	switch {
	case err == nil && ok != nil:
		s.report.count("replies")
		ok(reply)
		return
	case isRefused && (event == "refuse" && refused.Reason() == "as requested" || refused.Reason() == "unmatched topic"):
		s.report.count("refusals") // "unmatched topic": the channel has just crashed
		return
	}
	if event == "ignore" && errors.Is(err, push.ErrTimeout) {
		s.report.count("pushes without a reply")
		return
	}
	for _, expected := range []error{
		push.ErrLost, push.ErrTimeout, push.ErrFull, push.ErrCanceled, channel.ErrLeft, channel.ErrClosed,
	} {
		if errors.Is(err, expected) {
			s.report.count("pushes: " + expected.Error())
			return
		}
	}
	s.report.fault("%s in %s: %s completed with %q, %v", s.name, s.topic, event, reply.Bytes(), err)
}

// leave leaves the room and joins it again.
func (s *membership) leave(ctx context.Context) {
	s.setLeaving(true)
	s.ch.Leave()
	late := time.NewTimer(maxWait)
	defer late.Stop()
	select {
	case <-s.over:
	case <-ctx.Done():
		return
	case <-late.C:
		s.report.fault("%s in %s: leave did not complete", s.name, s.topic)
		return
	}
	s.who.Load().Close()
	s.report.count("leaves")
	s.setLeaving(false)
	s.join()
}

// close closes the client and checks that all its pushes have completed.
func (c *client) close() {
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	defer cancel()
	if err := c.socket.Flush(ctx); err != nil && ctx.Err() != nil { // failed pushes are counted elsewhere
		c.report.fault("%s: flush: %v", c.name, err)
	}
	if err := c.socket.Close(ctx); err != nil {
		c.report.fault("%s: close: %v", c.name, err)
	}
	if pushed, completed := c.pushed.Load(), c.completed.Load(); pushed != completed {
		c.report.fault("%s: of %d pushes %d completed", c.name, pushed, completed)
	}
}

// randN returns a random duration less than d.
func randN(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

// pause waits for d. It returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
