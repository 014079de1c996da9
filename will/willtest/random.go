package willtest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/key"
	"bennu.example/serializer"
	"bennu.example/will"
)

// faults is random while the database fails now and then.
func (s *suite) faults() {
	if s.cfg.Faults == nil {
		s.Skip("the database cannot fail")
	}
	stop := s.cfg.Faults(s.T)
	defer stop()
	s.runRandom(true)
}

// retry repeats an operation that may fail while there are faults.
func (r *randomRun) retry(f func() error) error {
	for begun := time.Now(); ; r.pause(r.unit / 20) {
		err := f()
		if err == nil || !r.withFaults || time.Since(begun) > time.Minute {
			return err
		}
	}
}

// random has clients that connect, set a will and disconnect, on two nodes, and runners that claim
// and sometimes stop before they delete. It checks the two guarantees of a Store by the times of
// the operations.
func (s *suite) random() { s.runRandom(false) }

func (s *suite) runRandom(withFaults bool) {
	const clients, connections = 8, 12
	r := &randomRun{suite: s, withFaults: withFaults, hold: s.unit, wills: make(map[string]*randomWill)}
	var runners, users sync.WaitGroup
	var stop atomic.Bool
	for i := range 4 {
		by := []will.Store{s.a, s.b}[i%2]
		runners.Go(func() {
			for !stop.Load() {
				r.run(by)
			}
		})
	}
	for i := range clients {
		users.Go(func() { r.client(fmt.Sprint("client", i), connections) })
	}
	users.Wait()
	for begun := time.Now(); !r.finished(); s.pause(s.unit / 20) {
		if time.Since(begun) > 100*s.unit+10*time.Second {
			s.Error("wills did not run")
			break
		}
	}
	stop.Store(true)
	runners.Wait()
	r.check()
}

type randomRun struct {
	*suite

	withFaults bool

	hold  time.Duration
	mu    sync.Mutex
	wills map[string]*randomWill
}

// randomWill is what happened to a will.
type randomWill struct {
	runs       []time.Time // the ends of its broadcasts
	superseded time.Time   // when the arrival of a newer connection returned; zero if there was none
	arriving   bool        // a newer connection arrives, or has arrived
	ended      bool
}

// client is one client. Its connections are on alternating nodes, and overlap.
func (r *randomRun) client(name string, connections int) {
	var last *randomWill
	for i := range connections {
		on := []will.Store{r.a, r.b}[i%2]
		c := will.Connection{ID: key.New(), ClientID: name}
		if i%3 > 0 {
			c.Order = uint64(i)
		}
		r.arriving(last)
		for {
			var busy time.Duration
			err := r.retry(func() (err error) { busy, err = on.Arrive(r.Context(), "room", c); return err })
			if err != nil {
				r.Error(err)
				return
			}
			if busy == 0 {
				break
			}
			r.pause(busy / 4)
		}
		r.arrived(last)
		w := will.Will{
			ID: key.New(), Topic: "room", Event: "gone", Payload: serializer.Value(map[string]int{"i": i}), Connection: c,
			Node: "node", After: rand.N(r.unit / 2),
		}
		if err := r.retry(func() error { _, err := on.Lease(r.Context(), "node", long); return err }); err != nil {
			r.Error(err)
		}
		last = r.add(w.ID)
		if err := r.retry(func() error { return on.Put(r.Context(), w) }); err != nil {
			r.Error(err)
			return
		}
		r.pause(rand.N(r.unit / 4))
		r.mu.Lock()
		last.ended = true
		r.mu.Unlock()
		if err := r.retry(func() error { return on.End(r.Context(), "room", c, w.ID) }); err != nil {
			r.Error(err)
			return
		}
		r.pause(rand.N(r.unit / 2))
	}
}

func (r *randomRun) add(id string) *randomWill {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := new(randomWill)
	r.wills[id] = w
	return w
}

func (r *randomRun) arriving(w *randomWill) {
	if w != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		w.arriving = true
	}
}

func (r *randomRun) arrived(w *randomWill) {
	if w != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		w.superseded = time.Now()
	}
}

// run claims some wills and broadcasts them.
func (r *randomRun) run(by will.Store) {
	begun := time.Now()
	wills, err := by.Claim(r.Context(), 3, r.hold)
	if err != nil && !r.withFaults {
		r.Error(err)
	}
	if len(wills) == 0 {
		r.pause(r.unit / 20)
		return
	}
	for _, w := range wills {
		if rand.IntN(3) == 0 {
			r.pause(rand.N(r.hold / 4)) // the broadcast takes time
		}
		if time.Since(begun) > r.hold/2 {
			continue // it is claimed again
		}
		r.mu.Lock()
		seen := r.wills[w.ID]
		seen.runs = append(seen.runs, time.Now())
		r.mu.Unlock()
		if rand.IntN(4) == 0 {
			continue // as if the node had died
		}
		if err := by.Delete(r.Context(), w.Topic, w.Connection, w.ID); err != nil && !r.withFaults {
			r.Error(err)
		}
	}
}

// finished reports whether all wills ran that no newer connection has deleted.
func (r *randomRun) finished() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.wills {
		if w.ended && !w.arriving && len(w.runs) == 0 {
			return false
		}
	}
	return true
}

func (r *randomRun) check() {
	ran := 0
	for id, w := range r.wills {
		for _, at := range w.runs {
			ran++
			if !w.superseded.IsZero() && at.After(w.superseded) {
				r.Errorf("will %s ran %v after a newer connection had arrived", id, at.Sub(w.superseded))
			}
		}
	}
	if ran == 0 {
		r.Error("no will ran")
	}
}
