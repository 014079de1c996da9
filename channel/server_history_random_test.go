package channel_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/histcheck"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// randomWorld is one topic with senders and clients that join, read slowly, are cut and come back.
// Package histcheck judges what they see.
type randomWorld struct {
	*histcheck.Recorder
	t       *testing.T
	ps      *pubsub.PubSub
	h       *channel.Handler
	workers mailbox.Workers

	mu     sync.Mutex
	stored []string // ids, each before its append begins
	ids    int
}

// newID stores the id of a record that is about to be appended.
func (w *randomWorld) newID(sender, skip string) string {
	w.mu.Lock()
	w.ids++
	id := fmt.Sprint(sender, "/", w.ids)
	w.stored = append(w.stored, id)
	w.mu.Unlock()
	w.Append(sender, id, skip)
	return id
}

func (w *randomWorld) loaded() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.stored)
}

type identified struct {
	ID string `json:"id"`
}

// handler loads what is stored, in a random time, and intercepts the event "b" if told to.
func (w *randomWorld) handler(rnd *rand.Rand, intercepts bool) *channel.Handler {
	pauses := make([]time.Duration, 64)
	for i := range pauses {
		pauses[i] = time.Duration(rnd.IntN(3)) * time.Duration(rnd.IntN(50)) * time.Millisecond
	}
	var joins sync.Mutex
	next := 0
	options := []channel.Option[nobody]{
		channel.On("hush", func(_ *nobody, _ context.Context, c *channel.Channel, p identified) (push.Reply, error) {
			err := c.BroadcastFrom("a", p)
			if err == nil {
				w.Appended(p.ID, "")
			}
			return push.NoReply, err
		}),
	}
	if intercepts {
		options = append(options, intercept("b", func(c *channel.Channel, p serializer.Payload) error {
			return c.Push("b", p)
		}))
	}
	return channel.Define(func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
		joins.Lock()
		pause := pauses[next%len(pauses)]
		next++
		joins.Unlock()
		time.Sleep(pause / 2)
		var ids []string
		if !c.Resume().OK {
			ids = w.loaded()
		}
		time.Sleep(pause / 2)
		return map[string][]string{"ids": ids}, nil
	}, options...)
}

// randomClient is a client whose connection has a queue of its own.
type randomClient struct {
	*client
	w     *randomWorld
	name  string
	asked bool
	slow  bool

	pos     string // as the client knows it; it survives cuts
	pending string // id of an event without a position, whose marker follows

	inbox  chan string // frames on their way
	closed bool
}

func (c *randomClient) Send(f *serializer.Frame, how transport.Delivery) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return transport.ErrClosed
	}
	if how.IfRoom {
		if c.room == 0 {
			return transport.ErrNoRoom
		}
		c.room--
	}
	c.inbox <- string(f.Data)
	return nil
}

func (c *randomClient) End(_ channelhost.Channel, frames ...*serializer.Frame) {
	for _, f := range frames {
		if f != nil {
			_ = c.Send(f, transport.Delivery{Answer: true})
		}
	}
}

func (c *randomClient) Drained(d channelhost.Channel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.room != 0 {
		return true
	}
	c.waiting = append(c.waiting, d)
	return false
}

// connect joins and reads until the connection is cut, or the channel is ended by the server.
func (c *randomClient) connect(rnd *rand.Rand, last bool) {
	c.inbox, c.closed, c.room, c.waiting, c.pending = make(chan string, 100_000), false, 1<<30, nil, ""
	if c.slow && !last {
		c.room = rnd.IntN(4)
	}
	params := `{}`
	since := ""
	if c.asked {
		since = c.pos
		params = `{"$history":{}}`
		if since != "" {
			params = fmt.Sprintf(`{"$history":{"since":%q}}`, since)
		}
	}
	c.w.Join(c.name, since, c.asked)
	c.ref++
	ref := serializer.StringRef(fmt.Sprint(c.ref))
	c.d = channelhost.Start(c, channelhost.Join{
		Handler: c.w.h, MaxMailbox: 1 << 20, Workers: &c.w.workers, Message: serializer.Message{
			JoinRef: ref, Ref: ref, Topic: "room:1", Event: serializer.EventJoin, Payload: received(c.t, params),
		},
	})
	life := time.Duration(rnd.IntN(1000)) * time.Millisecond
	if last {
		life = 20 * time.Second
	}
	end := time.NewTimer(life)
	defer end.Stop()
	tick := time.NewTicker(time.Duration(5+rnd.IntN(40)) * time.Millisecond)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case f := <-c.inbox:
			over = c.read(f)
		case <-end.C:
			over = true
		case <-tick.C:
			if c.slow {
				c.mu.Lock()
				c.room = max(c.room, 1+rnd.IntN(5))
				waiting := c.waiting
				c.waiting = nil
				c.mu.Unlock()
				for _, d := range waiting {
					d.ReadOn()
				}
			}
			if rnd.IntN(8) == 0 && !last {
				id := c.w.newID(c.name, c.name)
				m := serializer.Message{Topic: "room:1", Event: "hush", Payload: received(c.t, fmt.Sprintf(`{"id":%q}`, id))}
				if !receive(c.d, m, time.Second) {
					c.w.Uncertain(id)
				}
			}
		}
	}
	if last {
		return // the caller cuts it
	}
	c.cut()
}

// cut ends the connection. Frames that are still in the inbox are lost.
func (c *randomClient) cut() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.w.Cut(c.name)
	c.d.Close(errors.New("cut"))
	c.d.Wait()
}

// read handles a frame. It reports whether the channel has ended.
func (c *randomClient) read(frame string) (over bool) {
	m, err := c.ser.ParseClient(serializer.OpText, []byte(frame))
	if err != nil {
		c.t.Errorf("frame %q: %v", frame, err)
		return true
	}
	var p struct {
		Pos     string   `json:"$pos"`
		ID      string   `json:"id"`
		IDs     []string `json:"ids"`
		History struct {
			Pos       string
			Recovered bool
			Why       string
		} `json:"$history"`
	}
	if err := m.Payload.Decode(&p); err != nil {
		c.t.Errorf("frame %q: %v", frame, err)
	}
	switch m.Event {
	case serializer.EventReply:
		if m.Status != "ok" {
			return true // it joins again
		}
		h := p.History
		reply := histcheck.Reply{Pos: h.Pos, Recovered: h.Recovered, Why: h.Why}
		if !h.Recovered {
			reply.Loaded, reply.Snapshot = true, p.IDs
			c.pos = h.Pos
		}
		c.w.Joined(c.name, reply)
	case serializer.EventError, serializer.EventClose:
		return true
	case "$history":
		if c.pending != "" {
			c.w.Received(c.name, p.Pos, c.pending)
			c.pending = ""
		} else {
			c.w.Moved(c.name, p.Pos)
		}
		c.pos = p.Pos
	default:
		if c.asked && p.Pos == "" {
			c.pending = p.ID
			return false
		}
		c.w.Received(c.name, p.Pos, p.ID)
		if c.asked {
			c.pos = p.Pos
		}
	}
	return false
}

// TestRandomHistories plays random histories of one topic and lets histcheck judge them.
func TestRandomHistories(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 10
	}
	received := 0
	for seed := range seeds {
		received += playHistory(t, seed)
	}
	t.Logf("%d seeds, %d records", seeds, received)
}

func playHistory(t *testing.T, seed uint64) (records int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 13))
		limits := histcheck.Limits{
			Count: 20 + rnd.IntN(300), MaxReplay: 10 + rnd.IntN(200),
			AnyOrder: seed%3 == 0, // for these the handler intercepts
		}
		w := &randomWorld{
			Recorder: new(histcheck.Recorder), t: t,
			ps: recordedTopic(history.Keep{Count: limits.Count, MaxReplay: limits.MaxReplay}),
		}
		w.h = w.handler(rnd, seed%3 == 0)
		forgets := seed%5 == 4
		var senders, clients sync.WaitGroup
		for i := range 3 {
			rnd := rand.New(rand.NewPCG(seed, 100+uint64(i)))
			senders.Go(func() { w.send(rnd, fmt.Sprint("sender", i)) })
		}
		var all []*randomClient
		for i := range 6 {
			c := &randomClient{
				client: newClient(t, w.ps), w: w, name: fmt.Sprint("client", i),
				asked: forgets || i < 4, slow: i%2 == 0 && (forgets || i < 4),
			}
			c.ser = []serializer.Serializer{serializer.V2(), serializer.V1()}[i%2]
			all = append(all, c)
			rnd := rand.New(rand.NewPCG(seed, 200+uint64(i)))
			clients.Go(func() {
				for range 3 + rnd.IntN(8) {
					time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
					c.connect(rnd, false)
				}
				c.connectAtLast(rnd)
			})
		}
		if forgets {
			for range 1 + rnd.IntN(4) {
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				w.Fault("epoch")
				if err := w.ps.Forget(t.Context(), "room:1"); err != nil {
					t.Error(err)
				}
			}
		}
		senders.Wait()
		clients.Wait()
		for _, v := range w.Check(limits) {
			t.Errorf("seed %d: %v", seed, v)
		}
		for _, c := range all {
			c.cut()
		}
		records = w.ids
	})
	return records
}

// connectAtLast joins and stays until everything has arrived.
func (c *randomClient) connectAtLast(rnd *rand.Rand) {
	for start := time.Now(); time.Since(start) < 20*time.Second; {
		if c.d != nil && !c.closed {
			c.cut()
		}
		c.connect(rnd, true)
	}
}

// send appends records for some time.
func (w *randomWorld) send(rnd *rand.Rand, name string) {
	for range 30 + rnd.IntN(60) {
		time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
		for range 1 + rnd.IntN(4) {
			id := w.newID(name, "")
			pos, err := w.ps.Append(context.Background(), "room:1", []string{"a", "b"}[rnd.IntN(2)], identified{id})
			switch {
			case err != nil:
				w.t.Errorf("append: %v", err)
				w.Failed(id)
			default:
				w.Appended(id, pos.String())
			}
		}
	}
}
