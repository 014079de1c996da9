package websocket

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const none = time.Duration(-1)

// timersTest is a Server's timers whose connections have deadlines only.
type timersTest struct {
	*testing.T
	s     *Server
	conns []*serverConn
	index map[*serverConn]int

	mu     sync.Mutex
	want   []time.Duration // the deadlines that the connections should have, or none
	passed []time.Duration // the last ones that were replaced or removed when they had just passed
	fired  int
	onFire func(i int) // called when the deadline of connection i has passed; nil means nothing
}

func newTimersTest(t *testing.T, n int) *timersTest {
	m := &timersTest{T: t, s: NewServer(Config{}), index: make(map[*serverConn]int)}
	m.want, m.passed = make([]time.Duration, n), make([]time.Duration, n)
	for i := range n {
		c := newServerConn(m.s)
		m.conns = append(m.conns, c)
		m.index[c], m.want[i], m.passed[i] = i, none, none
	}
	m.s.timers.fire = m.fire
	return m
}

func (m *timersTest) fire(c *serverConn) {
	i := m.index[c]
	m.mu.Lock()
	switch now := m.s.now(); now {
	case m.want[i]:
		m.want[i] = none
	case m.passed[i]:
		m.passed[i] = none
	default:
		m.Errorf("called at %v, the deadline of connection %d is %v", now, i, m.want[i])
	}
	m.fired++
	m.mu.Unlock()
	if m.onFire != nil {
		m.onFire(i)
	}
}

// set sets a deadline, and checks that it is rounded up by less than a tick.
func (m *timersTest) set(i int, d time.Duration) {
	c := m.conns[i]
	c.mu.Lock()
	defer c.mu.Unlock()
	m.mu.Lock() // so that fire knows the deadline
	defer m.mu.Unlock()
	now := m.s.now()
	m.s.timers.set(c, now+d)
	m.change(i, c.deadline)
	if late := c.deadline - now - max(d, 0); late < 0 || late >= timerTick {
		m.Errorf("a deadline of %v became %v", d, c.deadline-now)
	}
}

func (m *timersTest) remove(i int) {
	m.s.timers.remove(m.conns[i])
	m.mu.Lock()
	m.change(i, none)
	m.mu.Unlock()
}

// change notes the new deadline of connection i. The caller holds mu.
func (m *timersTest) change(i int, deadline time.Duration) {
	if m.want[i] == m.s.now() {
		m.passed[i] = m.want[i]
	}
	m.want[i] = deadline
}

// check waits until everything of this instant has happened. It checks that no deadline was missed,
// and that the timers are counted as live if there are any.
func (m *timersTest) check() {
	m.Helper()
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	now, live := m.s.now(), 0
	for i, at := range m.want {
		if at == none {
			continue
		}
		live = 1
		if at <= now {
			m.Errorf("at %v the deadline %v of connection %d has passed", now, at, i)
		}
	}
	if m.s.live != live {
		m.Errorf("%d are live, want %d", m.s.live, live)
	}
}

// randomTimeout returns a time for each part of the wheel.
func randomTimeout(r *rand.Rand) time.Duration {
	switch d := time.Duration(r.Int64N(int64(time.Second))); r.IntN(8) {
	case 0:
		return d / 500 // a tick or two
	case 1:
		return time.Duration(r.IntN(1000)) * timerTick
	case 2:
		return time.Duration(r.IntN(600)) * wheelSlots * timerTick
	case 3:
		return d * 66 // about what the second level has
	case 4:
		return d * 1000
	case 5:
		return -d
	default:
		return d
	}
}

// TestTimersAtRandom checks that timers call fire for each deadline when it has passed, and for no
// other, whatever is set, replaced and removed meanwhile.
func TestTimersAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			m := newTimersTest(t, 1+r.IntN(20))
			n := len(m.conns)
			others := rand.New(rand.NewPCG(seed, 1))
			m.onFire = func(int) {
				switch i := others.IntN(n); others.IntN(4) {
				case 0:
					m.set(i, timerTick+max(randomTimeout(others), 0))
				case 1:
					m.remove(i)
				}
			}
			for range 500 {
				switch i := r.IntN(n); r.IntN(20) {
				default:
					m.set(i, randomTimeout(r))
				case 1, 2, 3:
					m.remove(i)
				case 4:
					for i := range n {
						m.remove(i)
					}
				}
				m.check()
				if r.IntN(2) == 0 {
					time.Sleep(max(randomTimeout(r), 0))
					m.check()
				}
			}
			for i := range n {
				m.remove(i)
			}
			m.check()
			m.s.Wait()
			if m.fired < 50 {
				t.Errorf("%d deadlines passed", m.fired)
			}
		})
	}
}

// TestTimersTogether checks the same when many goroutines set and remove deadlines at the same
// instants at which others pass.
func TestTimersTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const workers, each = 8, 10
		m := newTimersTest(t, workers*each)
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 1))
				for range 1000 {
					i := w*each + r.IntN(each)
					if r.IntN(3) > 0 {
						m.set(i, time.Duration(1+r.IntN(300))*timerTick)
					} else {
						m.remove(i)
					}
					time.Sleep(time.Duration(r.IntN(3)) * timerTick)
				}
			})
		}
		wg.Wait()
		for i := range m.conns {
			m.remove(i)
		}
		m.check()
		m.fired = 0
		for i := range m.conns {
			m.set(i, time.Second)
		}
		time.Sleep(time.Second)
		m.check()
		m.s.Wait()
		if m.fired != len(m.conns) {
			t.Errorf("%d of %d deadlines passed", m.fired, len(m.conns))
		}
	})
}

// TestTimersSleep checks that the timers wake only a few times for a deadline that is far away.
func TestTimersSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newTimersTest(t, 1)
		m.set(0, time.Hour)
		runs := 0
		for {
			m.s.timers.mu.Lock()
			over, next := m.s.timers.count == 0, m.s.timers.until(m.s.timers.due)
			m.s.timers.mu.Unlock()
			if over {
				break
			}
			runs++
			time.Sleep(next)
			m.check()
		}
		if m.fired != 1 || runs > 100 { // once in each 65 s, and for the rest
			t.Errorf("woken %d times in an hour, and %d deadlines passed", runs, m.fired)
		}
	})
}

// TestTimersRung checks that a deadline does not set an alarm again that has rung, while its call
// of run has not begun: a deadline after that of the alarm may be in a slot that is due before it.
func TestTimersRung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newTimersTest(t, 6)
		timers := &m.s.timers
		var running, most, fired atomic.Int32
		timers.fire = func(*serverConn) {
			if n := running.Add(1); n > 1 {
				most.Store(n)
			}
			time.Sleep(20 * time.Millisecond)
			running.Add(-1)
			fired.Add(1)
		}
		m.set(0, time.Hour)
		m.set(1, 100*time.Millisecond) // makes 100 the tick of the wheel
		time.Sleep(150 * time.Millisecond)
		for i := 2; i < 5; i++ {
			m.set(i, 150*time.Millisecond) // tick 300, in the first level
		}
		m.remove(0)

		begin := make(chan struct{})
		timers.mu.Lock()
		if timers.due != 300 || !timers.alarm.Stop() {
			t.Errorf("the alarm is set to tick %d", timers.due)
		}
		timers.alarm = time.AfterFunc(timers.until(timers.due), func() {
			<-begin
			timers.run()
		})
		timers.mu.Unlock()
		time.Sleep(160 * time.Millisecond)
		m.set(5, 110*time.Millisecond) // tick 420, in the slot of the second level that is due at 256
		synctest.Wait()
		m.remove(5)
		close(begin)

		time.Sleep(time.Second)
		synctest.Wait()
		if n := most.Load(); n > 1 {
			t.Errorf("%d calls of fire at once", n)
		}
		if n := fired.Load(); n != 4 {
			t.Errorf("%d deadlines passed, want 4", n)
		}
		if m.s.live != 0 {
			t.Errorf("%d are live, want none", m.s.live)
		}
	})
}

// BenchmarkTimers replaces deadlines of random connections. There are so many that most are not in
// the processor's cache.
func BenchmarkTimers(b *testing.B) {
	s := NewServer(Config{})
	conns := make([]*serverConn, 1_000_000)
	now := s.now()
	r := rand.New(rand.NewPCG(1, 1))
	for i := range conns {
		conns[i] = newServerConn(s)
		s.timers.set(conns[i], now+30*time.Second+time.Duration(r.Int64N(int64(30*time.Second))))
	}
	b.ReportAllocs()
	for b.Loop() {
		c := conns[r.IntN(len(conns))]
		s.timers.set(c, s.now()+time.Minute)
	}
	b.StopTimer()
	for _, c := range conns {
		s.timers.remove(c)
	}
	s.Wait()
}
