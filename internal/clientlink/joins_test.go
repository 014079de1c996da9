package clientlink_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/clientlink"
)

// joinRig is a queue whose time and functions the test controls.
type joinRig struct {
	q     *clientlink.JoinQueue
	now   time.Time
	again time.Time
	log   []string
}

// rigJoin is a join of the rig.
type rigJoin struct {
	clientlink.Join
	rig  *joinRig
	name string
}

func (j *rigJoin) Evaluate(context.Context) {}
func (j *rigJoin) Evaluated()               { j.rig.log = append(j.rig.log, "params "+j.name) }
func (j *rigJoin) Send()                    { j.rig.log = append(j.rig.log, "send "+j.name) }

func newJoinRig(max int) *joinRig {
	r := &joinRig{now: time.Unix(1, 0)}
	r.q = clientlink.NewJoinQueue(max, func(j *clientlink.Join) func() {
		name := j.Owner.(*rigJoin).name
		r.log = append(r.log, "start "+name)
		return func() { r.log = append(r.log, "cancel "+name) }
	})
	return r
}

// join returns a join whose number is that of the call. A name in capital letters has a function.
func (r *joinRig) join(name string, priority int8) *rigJoin {
	j := &rigJoin{rig: r, name: name}
	j.Owner, j.Priority, j.IsFunc = j, priority, strings.ToUpper(name) == name
	j.Number = r.q.Number()
	return j
}

func (r *joinRig) enter(name string, priority int8) *rigJoin {
	j := r.join(name, priority)
	r.q.Enter(&j.Join)
	return j
}

// run runs the queue after d, and checks what it did.
func (r *joinRig) run(t *testing.T, d time.Duration, want string) {
	t.Helper()
	r.now = r.now.Add(d)
	r.again = r.q.Run(r.now)
	if got := strings.Join(r.log, ", "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.log = nil
}

// wants checks when the queue is to run again.
func (r *joinRig) wants(t *testing.T, d time.Duration) {
	t.Helper()
	switch {
	case d == 0 && !r.again.IsZero():
		t.Errorf("run again after %v, want never", r.again.Sub(r.now))
	case d != 0 && r.again.Sub(r.now) != d:
		t.Errorf("run again after %v, want %v", r.again.Sub(r.now), d)
	}
}

func TestJoinQueueOrder(t *testing.T) {
	t.Parallel()
	r := newJoinRig(64)
	a, b := r.join("a", 0), r.join("b", 0)
	r.enter("c", -1)
	r.enter("d", 5)
	r.q.Enter(&b.Join)
	r.q.Enter(&a.Join)
	r.enter("e", 5)
	r.run(t, 0, "send d, send e, send a, send b, send c")
	r.wants(t, 0)
}

func TestJoinQueueConcurrency(t *testing.T) {
	t.Parallel()
	r := newJoinRig(2)
	a := r.enter("a", 0)
	r.run(t, 0, "send a")
	r.enter("b", 0)
	c := r.enter("c", 0)
	d := r.enter("d", 0)
	e := r.enter("e", 0)
	r.run(t, 500*time.Millisecond, "send b")
	r.wants(t, 500*time.Millisecond)
	r.q.Leave(&c.Join)
	r.q.Leave(&a.Join)
	r.q.Leave(&a.Join)
	r.run(t, 100*time.Millisecond, "send d")
	r.wants(t, 900*time.Millisecond)
	r.run(t, 899*time.Millisecond, "")
	r.run(t, time.Millisecond, "send e") // b counts no more
	r.wants(t, 0)
	r.enter("f", 0)
	r.q.Leave(&d.Join)
	r.q.Leave(&e.Join)
	r.run(t, 0, "send f")
}

func TestJoinQueueWithoutBound(t *testing.T) {
	t.Parallel()
	r := newJoinRig(-1)
	for range 100 {
		r.enter("A", 0)
	}
	r.run(t, 0, strings.TrimSuffix(strings.Repeat("start A, ", 100), ", "))
	r.enter("b", 1)
	r.run(t, 0, "send b")
}

func TestJoinQueueFunctions(t *testing.T) {
	t.Parallel()
	r := newJoinRig(2)
	a, b := r.enter("A", 0), r.enter("B", 0)
	c := r.enter("C", 1)
	r.enter("d", 0)
	r.run(t, 0, "start C, start A")
	r.wants(t, time.Second)
	r.q.Evaluated(&a.Join)
	r.run(t, 500*time.Millisecond, "params A, start B")
	r.wants(t, 500*time.Millisecond)
	r.run(t, 500*time.Millisecond, "send A") // C is late
	r.wants(t, 500*time.Millisecond)
	r.run(t, 500*time.Millisecond, "send d") // B is late
	r.wants(t, 0)
	r.q.Evaluated(&b.Join)
	r.enter("e", 0)
	r.q.Evaluated(&c.Join)
	if c.IsReady() != true || a.IsReady() {
		t.Error("C waits for its turn, A does not")
	}
	r.q.Leave(&a.Join)
	r.run(t, 0, "params B, params C, send C")
	r.q.Leave(&c.Join)
	r.run(t, 0, "send B")
}

// TestJoinQueueHungFunctions checks that functions that do not return let others start, also if
// their joins have left the queue.
func TestJoinQueueHungFunctions(t *testing.T) {
	t.Parallel()
	r := newJoinRig(2)
	a := r.enter("A", 0)
	r.enter("B", 0)
	c := r.enter("C", 0)
	r.run(t, 0, "start A, start B")
	r.q.Leave(&a.Join)
	r.run(t, 0, "cancel A")
	r.wants(t, time.Second)
	r.run(t, time.Second, "start C")
	r.q.Evaluated(&a.Join)
	r.q.Evaluated(&c.Join)
	r.run(t, 0, "params C, send C")
	r.q.Leave(&c.Join)
	r.q.Evaluated(&c.Join)
	r.run(t, 0, "")
}

func TestJoinQueuePace(t *testing.T) {
	t.Parallel()
	r := newJoinRig(-1)
	sends := func() int { n := len(r.log); r.log = nil; return n }
	for range 1000 {
		r.enter("a", 0)
	}
	r.again = r.q.Run(r.now)
	if n := sends(); n != 800 {
		t.Fatalf("%d joins at once", n)
	}
	r.wants(t, 2500*time.Microsecond)
	r.run(t, 2499*time.Microsecond, "")
	r.run(t, time.Microsecond, "send a")
	r.wants(t, 2500*time.Microsecond)
	r.again = r.q.Run(r.now.Add(100 * time.Millisecond))
	if n := sends(); n != 40 {
		t.Errorf("%d joins after 100 ms, want 40", n)
	}
	r.q.Opened()
	r.q.Run(r.now.Add(100 * time.Millisecond))
	if n := sends(); n != 159 {
		t.Errorf("%d joins on a new connection", n)
	}
}

// simulated is a join of the simulation.
type simulated struct {
	rigJoin
	takes   time.Duration // of its function; zero means that it has none
	ends    time.Time     // when the function ends, once it has started
	started time.Time
	answer  time.Time // when the join is answered, once it was sent
	sent    time.Time
	running bool
	waits   bool // in the queue, and not sent
}

func (j *simulated) Evaluated() {}

// TestJoinQueueRandom simulates 1,000 channels with functions of random speed, of which some hang,
// and connections that are cut.
func TestJoinQueueRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		simulateJoins(t, seed, 1000, 64)
	}
	for seed := range uint64(60) {
		simulateJoins(t, seed, 40, int(seed%4)+1)
	}
}

func simulateJoins(t *testing.T, seed uint64, channels, max int) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	now := time.Unix(1000, 0)
	var all []*simulated       // the joins of this connection
	var functions []*simulated // that run, also of earlier connections
	var q *clientlink.JoinQueue
	var opened []time.Time // the times of the sends on this connection
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d, %v: %s", seed, now.Sub(time.Unix(1000, 0)), fmt.Sprintf(format, args...))
	}
	counts := func(since func(*simulated) time.Time, list []*simulated) (n int) {
		for _, j := range list {
			if at := since(j); !at.IsZero() && now.Sub(at) < time.Second {
				n++
			}
		}
		return n
	}
	unanswered := func(j *simulated) time.Time {
		if j.answer.IsZero() {
			return time.Time{}
		}
		return j.sent
	}
	q = clientlink.NewJoinQueue(max, func(link *clientlink.Join) func() {
		j := link.Owner.(sender).simulated
		j.started, j.running, j.ends = now, true, now.Add(j.takes)
		functions = append(functions, j)
		if n := counts(func(j *simulated) time.Time { return j.started }, functions); n > max {
			fail("%d functions count", n)
		}
		return func() {}
	})
	before := func(j, k *simulated) bool {
		return j.Priority > k.Priority || j.Priority == k.Priority && j.Number < k.Number
	}
	send := func(j *simulated) {
		if j.takes > 0 && (j.started.IsZero() || j.running) {
			fail("%s was sent without params", j.name)
		}
		for _, k := range all {
			isLate := k.running && now.Sub(k.started) >= time.Second
			if k.waits && before(k, j) && !isLate {
				fail("%s was sent before %s", j.name, k.name)
			}
		}
		j.waits, j.sent, j.answer = false, now, now.Add(time.Duration(rnd.IntN(300))*time.Millisecond)
		if rnd.IntN(50) == 0 {
			j.answer = now.Add(time.Hour)
		}
		if n := counts(unanswered, all); n > max {
			fail("%d joins count", n)
		}
		opened = append(opened, now)
		for i := 0; i < len(opened); i += 100 {
			most := 801 + int(now.Sub(opened[i])*400/time.Second)
			if n := len(opened) - i; n > most {
				fail("%d joins in %v", n, now.Sub(opened[i]))
			}
		}
	}
	speeds := []time.Duration{0, 0, 5 * time.Millisecond, 200 * time.Millisecond, 1500 * time.Millisecond}
	numbers := make([]uint64, channels)
	for i := range numbers {
		numbers[i] = q.Number()
	}
	for life := range 4 {
		all, opened = nil, nil
		q.Opened()
		for _, i := range rnd.Perm(channels) {
			j := &simulated{takes: speeds[rnd.IntN(len(speeds))], waits: true}
			if j.takes > 0 {
				j.takes += time.Duration(rnd.IntN(int(j.takes)))
			}
			if i == 0 {
				j.takes = time.Hour // it hangs
			}
			j.Owner, j.Number, j.Priority, j.IsFunc = sender{j, send}, numbers[i], int8(i%7-3), j.takes > 0
			j.name = fmt.Sprint("join ", i)
			all = append(all, j)
			q.Enter(&j.Join)
		}
		cut := time.Duration(rnd.IntN(1500)) * time.Millisecond
		if life == 3 {
			cut = time.Hour / 2
		}
		end := now.Add(cut)
		for now.Before(end) {
			again := q.Run(now)
			next := end
			if !again.IsZero() {
				if !again.After(now) {
					fail("nothing to do now, and run again at once")
				}
				next = again
			}
			for _, j := range functions {
				if j.ends.Before(next) {
					next = j.ends
				}
			}
			for _, j := range all {
				if !j.answer.IsZero() && j.answer.Before(next) {
					next = j.answer
				}
			}
			if next.After(now) {
				now = next
			}
			functions = slices.DeleteFunc(functions, func(j *simulated) bool {
				if j.ends.After(now) {
					return false
				}
				j.running = false
				q.Evaluated(&j.Join)
				return true
			})
			for _, j := range all {
				if !j.answer.IsZero() && !j.answer.After(now) {
					j.answer = time.Time{}
					q.Leave(&j.Join)
				}
				if j.waits && rnd.IntN(20_000) == 0 {
					j.waits = false
					q.Leave(&j.Join)
				}
			}
		}
		for _, j := range all {
			if life == 3 && j.waits && j.takes < time.Minute {
				fail("%s was not sent", j.name)
			}
			q.Leave(&j.Join)
		}
		if q.IsWaiting() {
			fail("the queue is not empty after a cut")
		}
	}
}

// sender is the owner of a join of the simulation.
type sender struct {
	*simulated
	send func(*simulated)
}

func (s sender) Send() { s.send(s.simulated) }
