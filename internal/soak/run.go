package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/presence"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// What may be left, of the server and here, when all is over, and by how much a server may grow from its first quiet moment to any later one.
const (
	maxHeap       = 4 << 20
	maxHistories  = 8 << 20 // more is left here: what the witnesses keep
	maxGoroutines = 5       // when all is over
	maxBusy       = 15      // in a quiet moment: how many polls wait differs
)

// stage is what the clients go by.
type stage struct {
	quiet atomic.Bool   // do nothing
	roll  atomic.Uint64 // a new one is to be answered
}

// run is one soak.
type run struct {
	log    func(string, ...any)
	rng    *rand.Rand
	book   *book
	stage  stage
	child  *child
	proxy  *proxy
	guests []*guest
	others []*stranger
	sizes  sizes

	first      time.Time     // this server's first quiet moment
	settledFor time.Duration // from then to the last
	dropped    uint64        // frames, by all servers that ended
	crashes    uint64        // of channels, likewise
}

// soak goes on for about d, logs a verdict as the last line, and returns what went wrong.
func soak(d time.Duration, seed uint64, log func(string, ...any)) error {
	log("seed %d", seed)
	begun := time.Now()
	r := &run{log: log, rng: rand.New(rand.NewPCG(seed, 0)), book: newBook()}
	r.sizes.here = measure(true)
	err := r.run(d, seed)
	log("%s", r.book)
	if found := r.book.faults(); len(found) > 0 {
		err = errors.Join(err, errors.New(strings.Join(found, "\n")))
	}
	if err == nil {
		err = r.idle()
	}
	if err != nil {
		log("%v", err)
	}
	log("%s", r.verdict(err, seed, time.Since(begun)))
	return err
}

func (r *run) run(d time.Duration, seed uint64) (err error) {
	if r.child, err = startChild("127.0.0.1:0"); err != nil {
		return err
	}
	defer func() { r.child.kill() }()
	before, err := r.child.state()
	if err != nil {
		return err
	}
	r.sizes.empty = before.size
	if r.proxy, err = newProxy(r.child.addr); err != nil {
		return err
	}
	defer r.proxy.close()
	r.invite(seed)

	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for _, g := range r.guests {
		clients.Go(func() { g.run(ctx) })
	}
	for _, x := range r.others {
		clients.Go(func() { x.run(ctx) })
	}
	err = r.rounds(d)
	cancel()
	clients.Wait()
	for _, g := range r.guests {
		clients.Go(g.close)
	}
	clients.Wait()
	if err == nil {
		err = r.emptied()
	}
	if err == nil {
		err = r.drain()
	}
	if err == nil {
		err = r.explained()
	}
	r.proxy.close()
	return errors.Join(err, r.left())
}

// drain has the server end in good order: nothing of it may go on then, whatever its clients did.
func (r *run) drain() error {
	last, err := r.child.drain()
	if err != nil {
		return err
	}
	r.dropped += last.Lossy.WebSocket.Dropped
	r.crashes += last.Strict.Crashes + last.Lossy.Crashes
	if n := last.Strict.WebSocket.Dropped; n > 0 {
		return fmt.Errorf("the handler that may drop nothing dropped %d frames", n)
	}
	if last.Goroutines > r.sizes.empty.Goroutines {
		return fmt.Errorf("the server ended with %d goroutines, and began with %d", last.Goroutines, r.sizes.empty.Goroutines)
	}
	return nil
}

// explained checks that no more is missing than the servers dropped by their policy.
func (r *run) explained() error {
	if missed := r.book.counted("missed"); uint64(missed) > r.dropped {
		return fmt.Errorf("slow clients missed %d messages, but %d were dropped", missed, r.dropped)
	}
	return nil
}

// left waits until nothing is left of the clients in this process, but for what they heard.
func (r *run) left() error {
	return within(func() error {
		r.sizes.hereEnd = measure(true)
		return r.sizes.hereEnd.grew(r.sizes.here, maxGoroutines, maxHistories)
	})
}

// invite makes the clients. Each is in two rooms.
func (r *run) invite(seed uint64) {
	id := uint64(0)
	rng := func() *rand.Rand { id++; return rand.New(rand.NewPCG(seed, id)) }
	type seats interface{ sit(topic string) }
	sit := func(s seats) {
		s.sit(room(int(id)))
		s.sit(room(int(id) + 1))
	}
	for _, k := range []struct {
		n    int
		name string
		by   socket.ClientTransport
		ser  serializer.Serializer
	}{
		{4, "ws2", socket.WebSocket, serializer.V2()},
		{4, "ws3", socket.WebSocket, serializer.V3()},
		{2, "lp2", socket.LongPoll, serializer.V2()},
		{2, "lp3", socket.LongPoll, serializer.V3()},
		{1, "fallback", socket.Fallback, serializer.V2()},
	} {
		for i := range k.n {
			g := newGuest(r.book, &r.stage, fmt.Sprintf("%s-%d", k.name, i), r.proxy.addr(), k.by, k.ser, rng())
			sit(g)
			r.guests = append(r.guests, g)
		}
	}
	for i := range 6 {
		slow := i >= 4
		name := fmt.Sprintf("stranger-%d", i)
		if slow {
			name = fmt.Sprintf("slow-%d", i)
		}
		x := newStranger(r.book, &r.stage, name, r.proxy.addr(), slow, rng())
		sit(x)
		r.others = append(r.others, x)
	}
}

// Rounds are of a length between these. The quiet at their ends takes as long as it takes; more than this is taken from the next trouble.
const (
	shortest  = 6 * time.Second
	longest   = 20 * time.Second
	quietTime = 2 * time.Second
)

// rounds alternates trouble and quiet. In the first half of them the server is started again in every second round; the last server lives through all of
// the other half, so that what it leaks in an hour shows in some minutes.
func (r *run) rounds(d time.Duration) error {
	n := max(2, int(d/min(max(d/6, shortest), longest)))
	begun := time.Now()
	for i := range n {
		r.stage.quiet.Store(false)
		restart := i%2 == 0 && i < (n+1)/2
		end := begun.Add(d*time.Duration(i+1)/time.Duration(n) - quietTime)
		if err := r.trouble(max(time.Until(end), shortest/2), restart); err != nil {
			return err
		}
		r.stage.quiet.Store(true)
		r.proxy.calm()
		if err := r.settle(restart); err != nil {
			return fmt.Errorf("round %d of %d: %w", i+1, n, err)
		}
	}
	return nil
}

// trouble makes trouble for d.
func (r *run) trouble(d time.Duration, restart bool) error {
	end := time.Now().Add(d)
	restartAt := end
	if restart {
		restartAt = end.Add(-d/4 - randN(r.rng, d/2))
	}
	for ctx := context.Background(); time.Now().Before(end); pause(ctx, 20*time.Millisecond+randN(r.rng, 200*time.Millisecond)) {
		if restart && time.Now().After(restartAt) {
			restart = false
			if err := r.restart(); err != nil {
				return err
			}
		}
		r.harm()
	}
	if restart {
		return r.restart()
	}
	return nil
}

// harm does harm to some connection or some user.
func (r *run) harm() {
	kind := r.rng.IntN(10)
	if kind < 2 {
		r.book.count("users disconnected")
		if err := r.child.disconnect(r.guests[r.rng.IntN(len(r.guests))].name); err != nil {
			r.book.fault("disconnect: %v", err)
		}
		return
	}
	c := r.proxy.any(r.rng)
	if c == nil {
		return
	}
	switch {
	case kind < 4:
		r.book.count("connections cut")
		c.end()
	case kind < 6:
		r.book.count("connections reset")
		c.reset()
	case kind < 7:
		r.book.count("connections vanished")
		c.vanish(randN(r.rng, 3*time.Second))
	case kind < 9:
		r.book.count("connections stalled")
		c.stall(randN(r.rng, time.Second))
	default:
		r.book.count("connections stalled for long")
		c.stall(randN(r.rng, 6*time.Second))
	}
}

// restart ends the server in good order, and starts another at its address.
func (r *run) restart() error {
	r.book.count("restarts")
	if err := r.drain(); err != nil {
		return err
	}
	c, err := startChild(r.child.addr)
	if err != nil {
		return err
	}
	r.child = c
	r.proxy.setUpstream(c.addr)
	return nil
}

// witnesses are those of all clients.
func (r *run) witnesses() (all []*witness) {
	for _, g := range r.guests {
		for _, s := range g.seats {
			all = append(all, s.witness)
		}
	}
	for _, x := range r.others {
		for _, s := range x.order {
			all = append(all, s.witness)
		}
	}
	return all
}

// settle waits until all is well: everyone is joined, hears everyone, and is listed. Then it compares the server with what it was the first time, unless
// it is new.
func (r *run) settle(isNew bool) error {
	all := r.witnesses()
	begun := time.Now()
	if err := within(func() error { return r.answerRoll(all) }); err != nil {
		return fmt.Errorf("roll call: %w", err)
	}
	if err := within(func() error { return r.listed(all) }); err != nil {
		return fmt.Errorf("presence: %w", err)
	}
	took := time.Since(begun)
	return within(func() error {
		now, err := r.child.state()
		if err != nil {
			return err
		}
		if isNew || r.first.IsZero() {
			r.first, r.sizes.first = time.Now(), now.size
		}
		r.settledFor, r.sizes.last = time.Since(r.first), now.size
		r.log("settled in %4.1f s: %d connections, %d goroutines, %d kB of heap; %d heard, %d frames dropped, %d slow connections ended, %d crashes",
			took.Seconds(), now.Strict.Sockets+now.Lossy.Sockets, now.Goroutines, now.Heap>>10, r.book.counted("heard"),
			now.Lossy.WebSocket.Dropped, now.Strict.WebSocket.Slow+now.Lossy.WebSocket.Slow, now.Strict.Crashes+now.Lossy.Crashes)
		return now.grew(r.sizes.first, maxBusy, maxHeap)
	})
}

// within tries until there is no error, for as long as patience lasts.
func within(try func() error) error {
	for end := time.Now().Add(patience); ; {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
		pause(context.Background(), 100*time.Millisecond)
	}
}

// rollTime is how long a roll call may take before it is called again.
const rollTime = 5 * time.Second

// answerRoll calls the roll once and waits for the answers for a while: a connection may yet be found to be lost, and an answer with it.
func (r *run) answerRoll(all []*witness) error {
	if err := joined(all); err != nil {
		return err
	}
	roll := r.stage.roll.Add(1)
	names := map[string][]string{} // by room
	for _, w := range all {
		names[w.topic] = append(names[w.topic], w.name)
	}
	before := intervals(all)
	for end := time.Now().Add(rollTime); ; {
		pause(context.Background(), 50*time.Millisecond)
		err := heardBy(all, roll, names)
		switch {
		case err == nil:
			return joined(all)
		case intervals(all) != before:
			return errors.New("somebody joined again")
		case time.Now().After(end):
			r.book.count("roll calls in vain")
			return err
		}
	}
}

// intervals is how many there were.
func intervals(all []*witness) (n int) {
	for _, w := range all {
		n += w.intervals()
	}
	return n
}

func joined(all []*witness) error {
	for _, w := range all {
		if is, _ := w.now(); !is {
			return fmt.Errorf("%s is not joined in %s", w.name, w.topic)
		}
	}
	return nil
}

func heardBy(all []*witness, roll uint64, names map[string][]string) error {
	for _, w := range all {
		if missing := w.missing(roll, names[w.topic]); len(missing) > 0 && !w.lossy {
			return fmt.Errorf("%s does not hear %v in %s", w.name, missing, w.topic)
		}
	}
	return nil
}

// listed checks that presence, as the server and as every client knows it, is who is joined, each once and in this life.
func (r *run) listed(all []*witness) error {
	s, err := r.child.state()
	if err != nil {
		return err
	}
	want := map[string][]string{} // by room
	for _, w := range all {
		_, life := w.now()
		want[w.topic] = append(want[w.topic], fmt.Sprintf("%s:%d", w.name, life))
	}
	check := func(who, topic string, list presence.State) error {
		var got []string
		for name, e := range list.All() {
			for _, m := range e.Metas {
				var h hello
				if err := m.Decode(&h); err != nil {
					return err
				}
				got = append(got, fmt.Sprintf("%s:%d", name, h.Life))
			}
		}
		slices.Sort(got)
		slices.Sort(want[topic])
		if !slices.Equal(got, want[topic]) {
			return fmt.Errorf("%s has %v in %s, but there are %v", who, got, topic, want[topic])
		}
		return nil
	}
	for topic, list := range s.Present {
		if err := check("the server", topic, list); err != nil {
			return err
		}
	}
	for _, w := range all {
		if w.list == nil {
			continue
		}
		list, sure := w.list()
		if !sure {
			return fmt.Errorf("%s does not know who is in %s", w.name, w.topic)
		}
		if err := check(w.name, w.topic, list); err != nil {
			return err
		}
	}
	return nil
}

// emptied waits until nothing is left of the clients at the server.
func (r *run) emptied() error {
	return within(func() error {
		s, err := r.child.state()
		if err != nil {
			return err
		}
		for topic, list := range s.Present {
			if list.Len() > 0 {
				return fmt.Errorf("%d are still present in %s", list.Len(), topic)
			}
		}
		if n := s.Strict.Sockets + s.Lossy.Sockets; n > 0 {
			return fmt.Errorf("%d sockets are left at the server", n)
		}
		r.sizes.emptied = s.size
		return s.grew(r.sizes.empty, maxGoroutines, maxHeap)
	})
}

// idle reports if something did not happen at all, so that nothing was checked.
func (r *run) idle() error {
	for _, what := range []string{"heard", "ticks", "replies", "replies to strangers", "leaves", "restarts", "connections cut",
		"connections by websocket", "connections by longpoll"} {
		if r.book.counted(what) == 0 {
			return fmt.Errorf("never happened: %s", what)
		}
	}
	return nil
}
