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

// patience is how long anything may take that must happen. Two shared cores do all of this.
const patience = time.Minute

// guest is a client of Bennu's. Besides what its witnesses check, each of its pushes must be answered once: by the reply that is due, or by an error
// of those that package push names.
type guest struct {
	book   *book
	stage  *stage
	name   string
	rng    *rand.Rand
	client *socket.Client
	seats  []*seat
	window chan struct{} // as many as there are pushes unanswered
	pushed atomic.Int64
	solved atomic.Int64
}

// seat is a guest in a room.
type seat struct {
	*witness
	guest *guest
	ch    *channel.Client
	who   atomic.Pointer[presence.Client]
	seq   uint64
	over  chan struct{} // closed when the channel is
}

// answerTime is how long an answer may take, stalls included.
const answerTime = 10 * time.Second

// maxUnanswered bounds the pushes of a guest that wait for an answer.
const maxUnanswered = 32

func newGuest(b *book, st *stage, name, addr string, by socket.ClientTransport, ser serializer.Serializer, rng *rand.Rand) *guest {
	g := &guest{book: b, stage: st, name: name, rng: rng, window: make(chan struct{}, maxUnanswered)}
	soon := func(int) time.Duration { return 20*time.Millisecond + rand.N(200*time.Millisecond) }
	g.client = socket.NewClient("ws://"+addr+"/strict", &socket.ClientConfig{
		Params:            map[string]string{"name": name},
		Serializer:        ser,
		Transport:         by,
		Timeout:           answerTime,
		HeartbeatInterval: time.Second,
		ReconnectDelay:    func(r socket.Retry) time.Duration { return soon(r.Tries) },
		RejoinAfter:       soon,
	})
	g.client.OnState(func(s socket.State) {
		if s.Status == socket.Connected {
			b.count("connections by " + s.Transport)
		}
		if s.Status == socket.Failed || s.Status == socket.Denied {
			b.fault("%s: %s: %v", name, s.Status, s.Cause)
		}
	})
	return g
}

// sit has the guest join a room.
func (g *guest) sit(topic string) {
	s := &seat{witness: newWitness(g.book, g.name, topic, false), guest: g}
	s.list = func() (presence.State, bool) {
		who := s.who.Load()
		return who.List(), who.Synced()
	}
	g.seats = append(g.seats, s)
	s.enter()
}

func (s *seat) enter() {
	s.over = make(chan struct{})
	over := s.over
	s.ch = s.guest.client.Channel(s.topic, func(context.Context) (any, error) {
		return hello{s.name, s.book.clock.Add(1)}, nil
	})
	s.who.Store(presence.NewClient(s.ch, nil))
	s.ch.OnJoin(func(p serializer.Payload) {
		if a, ok := decode[answer](s.witness, p); ok {
			s.begins(a.Life)
		}
	})
	s.ch.OnError(func(err error) {
		if _, ok := errors.AsType[*channel.OverflowError](err); ok {
			s.drops()
			return
		}
		s.ends()
	})
	s.ch.OnClose(func(error) {
		s.ends()
		close(over)
	})
	s.ch.On("said", func(p serializer.Payload) {
		if m, ok := decode[said](s.witness, p); ok {
			s.hears(m)
		}
	})
	s.ch.On("tick", func(p serializer.Payload) {
		if m, ok := decode[tick](s.witness, p); ok {
			s.ticked(m)
		}
	})
	s.ch.Join()
}

func decode[T any](w *witness, p serializer.Payload) (v T, ok bool) {
	if err := p.Decode(&v); err != nil {
		w.book.fault("%s in %s: %q does not decode: %v", w.name, w.topic, p.Bytes(), err)
		return v, false
	}
	return v, true
}

// run acts until ctx ends.
func (g *guest) run(ctx context.Context) {
	g.client.Connect()
	rolled := uint64(0)
	for pause(ctx, randN(g.rng, 40*time.Millisecond)) {
		if roll := g.stage.roll.Load(); roll != rolled {
			rolled = roll
			for _, s := range g.seats {
				s.say(ctx, roll)
			}
		} else if !g.stage.quiet.Load() {
			g.act(ctx)
		}
	}
}

// act does one thing. The weights are per mille.
func (g *guest) act(ctx context.Context) {
	s := g.seats[g.rng.IntN(len(g.seats))]
	switch n := g.rng.IntN(1000); {
	case n < 600:
		s.say(ctx, 0)
	case n < 750:
		pad := padding(g.rng)
		s.push(ctx, "echo", said{Pad: pad}, 0, func(p serializer.Payload) {
			if m, ok := decode[said](s.witness, p); ok && m.Pad != pad {
				s.book.fault("%s in %s: echo of %d bytes came back as %d", s.name, s.topic, len(pad), len(m.Pad))
			}
		})
	case n < 830:
		s.push(ctx, "tick", 1+g.rng.IntN(5), 0, s.replied("tick"))
	case n < 870:
		s.push(ctx, "refuse", nil, 0, nil)
	case n < 890:
		s.push(ctx, "ignore", nil, 200*time.Millisecond, nil)
	case n < 940:
		if p := s.push(ctx, "echo", said{}, 0, func(serializer.Payload) {}); p != nil {
			p.Cancel()
		}
	case n < 950:
		s.push(ctx, "crash", nil, 0, nil)
	case n < 985:
		s.leave(ctx)
	case n < 995:
		g.client.Pause()
		pause(ctx, randN(g.rng, 300*time.Millisecond))
		g.client.Resume()
		g.book.count("pauses")
	default:
		for range 100 { // all at once
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

func (s *seat) say(ctx context.Context, roll uint64) {
	s.seq++
	s.push(ctx, "say", said{Seq: s.seq, Roll: roll, Pad: padding(s.guest.rng)}, 0, s.replied("say"))
}

// replied checks the answer to "say" and "tick".
func (s *seat) replied(event string) func(serializer.Payload) {
	return func(p serializer.Payload) {
		if a, ok := decode[answer](s.witness, p); ok {
			s.answered(event, a)
		}
	}
}

// push pushes, and has ok called with the reply, if one is due and comes. It returns nil if ctx ended before there was room for more pushes.
func (s *seat) push(ctx context.Context, event string, payload any, timeout time.Duration, ok func(serializer.Payload)) *push.Push {
	g := s.guest
	select {
	case g.window <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	g.pushed.Add(1)
	p := s.ch.PushTimeout(event, payload, cmp.Or(timeout, answerTime))
	var times atomic.Int32
	once := func(serializer.Payload) {
		if n := times.Add(1); n > 1 {
			g.book.fault("%s in %s: %s was answered %d times", s.name, s.topic, event, n)
			return
		}
		reply, err := p.Wait(context.Background()) // it is answered
		s.solved(event, reply, err, ok)
		g.solved.Add(1)
		<-g.window
	}
	for _, status := range []string{push.StatusOK, push.StatusError, push.StatusTimeout, push.StatusFailed} {
		p.Receive(status, once)
	}
	return p
}

// solved checks the one answer of a push.
func (s *seat) solved(event string, reply serializer.Payload, err error, ok func(serializer.Payload)) {
	refused, isRefused := errors.AsType[*push.Error](err)
	switch {
	case err == nil && ok != nil:
		s.book.count("replies")
		ok(reply)
		return
	case isRefused && (event == "refuse" && refused.Reason() == "as asked" || refused.Reason() == "unmatched topic"):
		s.book.count("refusals") // unmatched: the channel had just crashed
		return
	}
	if event == "ignore" && errors.Is(err, push.ErrTimeout) {
		s.book.count("pushes that none answers")
		return
	}
	for _, expected := range []error{push.ErrLost, push.ErrTimeout, push.ErrFull, push.ErrCanceled, channel.ErrLeft, channel.ErrClosed} {
		if errors.Is(err, expected) {
			s.book.count("pushes: " + expected.Error())
			return
		}
	}
	s.book.fault("%s in %s: %s was answered with %q, %v", s.name, s.topic, event, reply.Bytes(), err)
}

// leave leaves the room, and joins it again.
func (s *seat) leave(ctx context.Context) {
	s.leaves(true)
	s.ch.Leave()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-s.over:
	case <-ctx.Done():
		return
	case <-late.C:
		s.book.fault("%s in %s: leaving does not end", s.name, s.topic)
		return
	}
	s.who.Load().Close()
	s.book.count("leaves")
	s.leaves(false)
	s.enter()
}

// close ends the guest: everything is answered, and nothing is left of it.
func (g *guest) close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := g.client.Flush(ctx); err != nil && ctx.Err() != nil { // pushes that failed were counted already
		g.book.fault("%s: flush: %v", g.name, err)
	}
	if err := g.client.Close(ctx); err != nil {
		g.book.fault("%s: close: %v", g.name, err)
	}
	if pushed, solved := g.pushed.Load(), g.solved.Load(); pushed != solved {
		g.book.fault("%s: of %d pushes %d were answered", g.name, pushed, solved)
	}
}

// randN is a duration below d.
func randN(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

// pause waits, and reports whether ctx goes on.
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
