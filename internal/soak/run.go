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

	"bennu.example/internal/histcheck"
	"bennu.example/presence"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// Limits on growth: of the server from its first settled state to any later one, and of both
// processes at the end.
const (
	maxHeap       = 4 << 20
	maxOwnHeap    = 6 << 20 // of this process, which runs all clients: 3.4 MiB after ten minutes
	maxGoroutines = 5       // at the end
	maxBusy       = 15      // while settled: the number of waiting polls varies
)

// schedule tells the clients when to act.
type schedule struct {
	quiet atomic.Bool   // perform no random actions
	roll  atomic.Uint64 // number of the current roll call, which clients answer once
}

// run is the state of one soak test.
type run struct {
	log        func(string, ...any)
	rng        *rand.Rand
	report     *report
	schedule   schedule
	child      *child
	proxy      *proxy
	clients    []*client
	rawClients []*rawClient
	sizes      sizes
	count      int // clients and raw clients

	historyClients []*historyClient
	recorder       *histcheck.Recorder // of historyClients

	first      time.Time     // when this server first settled
	settledFor time.Duration // time from then to the last settled state
	dropped    uint64        // frames dropped by all servers that have ended
	crashes    uint64        // channels crashed on all servers that have ended
}

// soak runs the test for about d. It logs a verdict as the last line and returns the faults found.
func soak(d time.Duration, seed uint64, log func(string, ...any)) error {
	log("seed %d", seed)
	begun := time.Now()
	r := &run{log: log, rng: rand.New(rand.NewPCG(seed, 0)), report: newReport()}
	r.sizes.here = measure(true)
	err := r.run(d, seed)
	log("%s", r.report)
	if found := r.report.faults(); len(found) > 0 {
		err = errors.Join(err, errors.New(strings.Join(found, "\n")))
	}
	if err == nil {
		err = r.checkActivity()
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
	r.createClients(seed)

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, c := range r.clients {
		running.Go(func() { c.run(ctx) })
	}
	for _, x := range r.rawClients {
		running.Go(func() { x.run(ctx) })
	}
	for _, x := range r.historyClients {
		running.Go(func() { x.run(ctx) })
	}
	err = r.rounds(d)
	if err == nil {
		err = r.checkHistory()
	}
	cancel()
	running.Wait()
	for _, c := range r.clients {
		running.Go(c.close)
	}
	running.Wait()
	if err == nil {
		err = r.waitEmptied()
	}
	if err == nil {
		err = r.drain()
	}
	if err == nil {
		err = r.checkMissed()
	}
	r.proxy.close()
	// The records of the checkers and the recorder grow with time.
	r.clients, r.rawClients, r.historyClients, r.recorder = nil, nil, nil, nil
	return errors.Join(err, r.waitReleased())
}

// drain shuts the server down and checks that no goroutines remain.
func (r *run) drain() error {
	last, err := r.child.drain()
	if err != nil {
		return err
	}
	r.dropped += last.Lossy.WebSocket.Dropped
	r.crashes += last.Strict.Crashes + last.Lossy.Crashes
	if n := last.Strict.WebSocket.Dropped; n > 0 {
		return fmt.Errorf("the strict handler dropped %d frames", n)
	}
	if last.Goroutines > r.sizes.empty.Goroutines {
		return fmt.Errorf("%d goroutines when the server ended, %d at its start", last.Goroutines, r.sizes.empty.Goroutines)
	}
	return nil
}

// checkMissed checks that the slow clients missed no more messages than the servers dropped.
func (r *run) checkMissed() error {
	if missed := r.report.counted("missed"); uint64(missed) > r.dropped {
		return fmt.Errorf("slow clients missed %d messages, but %d were dropped", missed, r.dropped)
	}
	return nil
}

// waitReleased waits until the clients, which are no longer referenced, have released this
// process's resources.
func (r *run) waitReleased() error {
	return within(func() error {
		r.sizes.hereEnd = measure(true)
		return r.sizes.hereEnd.grew(r.sizes.here, maxGoroutines, maxOwnHeap)
	})
}

// createClients creates the clients. Each joins two rooms.
func (r *run) createClients(seed uint64) {
	id := uint64(0)
	rng := func() *rand.Rand { id++; return rand.New(rand.NewPCG(seed, id)) }
	type joiner interface{ addMembership(topic string) }
	addMembership := func(s joiner) {
		s.addMembership(room(int(id)))
		s.addMembership(room(int(id) + 1))
	}
	for _, k := range []struct {
		n    int
		name string
		by   socket.ClientTransport
		ser  serializer.Serializer
	}{
		{4, "ws2", socket.TransportWebSocket, serializer.V2()},
		{4, "ws3", socket.TransportWebSocket, serializer.V3()},
		{2, "lp2", socket.TransportLongPoll, serializer.V2()},
		{2, "lp3", socket.TransportLongPoll, serializer.V3()},
		{1, "fallback", socket.TransportFallback, serializer.V2()},
	} {
		for i := range k.n {
			c := newClient(r.report, &r.schedule, fmt.Sprintf("%s-%d", k.name, i), r.proxy.addr(), k.by, k.ser, rng())
			addMembership(c)
			r.clients = append(r.clients, c)
		}
	}
	for i := range 6 {
		slow := i >= 4
		name := fmt.Sprintf("raw-%d", i)
		if slow {
			name = fmt.Sprintf("slow-%d", i)
		}
		x := newRawClient(r.report, &r.schedule, name, r.proxy.addr(), slow, rng())
		addMembership(x)
		r.rawClients = append(r.rawClients, x)
	}
	r.count = len(r.clients) + len(r.rawClients)
	r.recorder = new(histcheck.Recorder)
	for i := range 4 {
		r.historyClients = append(r.historyClients, &historyClient{
			Recorder: r.recorder, report: r.report, schedule: &r.schedule, name: fmt.Sprintf("history-%d", i),
			rng: rng(), addr: r.proxy.addr(),
		})
	}
}

// Limits of the length of a round. A round ends with a quiet phase of unlimited length; what
// exceeds quietTime is taken from the next round.
const (
	shortest  = 6 * time.Second
	longest   = 20 * time.Second
	quietTime = 2 * time.Second
)

// rounds alternates disturbances and quiet phases. In the first half, the server restarts in every
// second round. The last server runs for all of the second half, so that a slow leak becomes
// visible.
func (r *run) rounds(d time.Duration) error {
	n := max(2, int(d/min(max(d/6, shortest), longest)))
	begun := time.Now()
	for i := range n {
		r.schedule.quiet.Store(false)
		restart := i%2 == 0 && i < (n+1)/2
		end := begun.Add(d*time.Duration(i+1)/time.Duration(n) - quietTime)
		if err := r.disturb(max(time.Until(end), shortest/2), restart); err != nil {
			return err
		}
		r.schedule.quiet.Store(true)
		r.proxy.clearStalls()
		if err := r.settle(restart); err != nil {
			return fmt.Errorf("round %d of %d: %w", i+1, n, err)
		}
	}
	return nil
}

// disturb injects disturbances for d.
func (r *run) disturb(d time.Duration, restart bool) error {
	end := time.Now().Add(d)
	restartAt := end
	if restart {
		restartAt = end.Add(-d/4 - randN(r.rng, d/2))
	}
	for time.Now().Before(end) {
		if restart && time.Now().After(restartAt) {
			restart = false
			if err := r.restart(); err != nil {
				return err
			}
		}
		r.disturbOne()
		pause(context.Background(), 20*time.Millisecond+randN(r.rng, 200*time.Millisecond))
	}
	if restart {
		return r.restart()
	}
	return nil
}

// disturbOne disturbs a random connection or user.
func (r *run) disturbOne() {
	kind := r.rng.IntN(10)
	if kind < 2 {
		r.report.count("users disconnected")
		if err := r.child.disconnect(r.clients[r.rng.IntN(len(r.clients))].name); err != nil {
			r.report.fault("disconnect: %v", err)
		}
		return
	}
	c := r.proxy.any(r.rng)
	if c == nil {
		return
	}
	switch {
	case kind < 4:
		r.report.count("connections cut")
		c.end()
	case kind < 6:
		r.report.count("connections reset")
		c.reset()
	case kind < 7:
		r.report.count("connections vanished")
		c.vanish(randN(r.rng, 3*time.Second))
	case kind < 9:
		r.report.count("connections stalled")
		c.stall(randN(r.rng, time.Second))
	default:
		r.report.count("connections stalled for long")
		c.stall(randN(r.rng, 6*time.Second))
	}
}

// restart shuts the server down and starts another one at its address.
func (r *run) restart() error {
	r.report.count("restarts")
	if err := r.drain(); err != nil {
		return err
	}
	r.recorder.Fault("epoch") // the log has gone with the server
	c, err := startChild(r.child.addr)
	if err != nil {
		return err
	}
	r.child = c
	r.proxy.setUpstream(c.addr)
	return nil
}

// checkers returns the checkers of all clients.
func (r *run) checkers() (all []*checker) {
	for _, c := range r.clients {
		for _, s := range c.memberships {
			all = append(all, s.checker)
		}
	}
	for _, x := range r.rawClients {
		for _, s := range x.order {
			all = append(all, s.checker)
		}
	}
	return all
}

// settle waits until every client is joined, receives messages from all others and is listed in
// presence. Then it checks how much the server has grown since it first settled, unless the server
// is new.
func (r *run) settle(isNew bool) error {
	all := r.checkers()
	begun := time.Now()
	if err := within(func() error { return r.rollCall(all) }); err != nil {
		return fmt.Errorf("roll call: %w", err)
	}
	if err := within(func() error { return r.checkPresence(all) }); err != nil {
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
		r.log("settled in %4.1f s: %d connections, %d goroutines, %d kB of heap; "+
			"%d received, %d frames dropped, %d slow connections ended, %d crashes",
			took.Seconds(), now.Strict.Sockets+now.Lossy.Sockets, now.Goroutines, now.Heap>>10,
			r.report.counted("received"), now.Lossy.WebSocket.Dropped,
			now.Strict.WebSocket.Slow+now.Lossy.WebSocket.Slow, now.Strict.Crashes+now.Lossy.Crashes)
		return now.grew(r.sizes.first, maxBusy, maxHeap)
	})
}

// within calls try until it succeeds, for at most maxWait.
func within(try func() error) error {
	for end := time.Now().Add(maxWait); ; {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
		pause(context.Background(), 100*time.Millisecond)
	}
}

// rollCallTimeout is how long to wait for a roll call before repeating it.
const rollCallTimeout = 5 * time.Second

// rollCall starts a roll call and waits for the answers. It may fail if a connection was lost
// without notice, and with it an answer.
func (r *run) rollCall(all []*checker) error {
	if err := joined(all); err != nil {
		return err
	}
	roll := r.schedule.roll.Add(1)
	names := map[string][]string{} // by topic
	for _, w := range all {
		names[w.topic] = append(names[w.topic], w.name)
	}
	before := intervals(all)
	for end := time.Now().Add(rollCallTimeout); ; {
		pause(context.Background(), 50*time.Millisecond)
		err := allReceived(all, roll, names)
		switch {
		case err == nil:
			return joined(all)
		case intervals(all) != before:
			return errors.New("a client joined again")
		case time.Now().After(end):
			r.report.count("incomplete roll calls")
			return err
		}
	}
}

// intervals returns the number of intervals of all checkers.
func intervals(all []*checker) (n int) {
	for _, w := range all {
		n += w.intervals()
	}
	return n
}

func joined(all []*checker) error {
	for _, w := range all {
		if is, _ := w.now(); !is {
			return fmt.Errorf("%s is not joined in %s", w.name, w.topic)
		}
	}
	return nil
}

func allReceived(all []*checker, roll uint64, names map[string][]string) error {
	for _, w := range all {
		if missing := w.missing(roll, names[w.topic]); len(missing) > 0 && !w.lossy {
			return fmt.Errorf("%s did not receive messages from %v in %s", w.name, missing, w.topic)
		}
	}
	return nil
}

// checkPresence checks that the presence lists of the server and of every client contain exactly
// the joined clients, each once and with its current generation.
func (r *run) checkPresence(all []*checker) error {
	s, err := r.child.state()
	if err != nil {
		return err
	}
	want := map[string][]string{} // by topic
	for _, w := range all {
		_, generation := w.now()
		want[w.topic] = append(want[w.topic], fmt.Sprintf("%s:%d", w.name, generation))
	}
	check := func(who, topic string, list presence.State) error {
		var got []string
		for name, e := range list.All() {
			for _, m := range e.Metas {
				var h joinParams
				if err := m.Decode(&h); err != nil {
					return err
				}
				got = append(got, fmt.Sprintf("%s:%d", name, h.Generation))
			}
		}
		slices.Sort(got)
		slices.Sort(want[topic])
		if !slices.Equal(got, want[topic]) {
			return fmt.Errorf("%s lists %v in %s, want %v", who, got, topic, want[topic])
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
			return fmt.Errorf("%s has no presence state for %s", w.name, w.topic)
		}
		if err := check(w.name, w.topic, list); err != nil {
			return err
		}
	}
	return nil
}

// waitEmptied waits until the server has released everything about the clients.
func (r *run) waitEmptied() error {
	return within(func() error {
		s, err := r.child.state()
		if err != nil {
			return err
		}
		for topic, list := range s.Present {
			if list.Len() > 0 {
				return fmt.Errorf("%d keys are still present in %s", list.Len(), topic)
			}
		}
		if n := s.Strict.Sockets + s.Lossy.Sockets; n > 0 {
			return fmt.Errorf("%d sockets remain on the server", n)
		}
		r.sizes.emptied = s.size
		return s.grew(r.sizes.empty, maxGoroutines, maxHeap)
	})
}

// checkActivity returns an error if a kind of action never happened, in which case nothing was
// checked.
func (r *run) checkActivity() error {
	for _, what := range []string{
		"received", "ticks", "replies", "replies to raw clients", "leaves", "restarts",
		"connections cut", "connections by websocket", "connections by longpoll",
		"records received", "joins of clients with history",
	} {
		if r.report.counted(what) == 0 {
			return fmt.Errorf("never happened: %s", what)
		}
	}
	return nil
}
