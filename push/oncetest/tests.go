package oncetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"bennu.example/push"
)

const long = time.Hour // a lease or a window that does not end

func (s *suite) oneHolder() {
	s.begin(s.a, "ann.1", "first", long, true, "")
	s.begin(s.b, "ann.1", "second", long, false, "")
	s.begin(s.a, "ann.1", "second", long, false, "")
	s.begin(s.a, "ann.1", "first", long, true, "")
	s.begin(s.b, "ann.2", "second", long, true, "")
	s.begin(s.b, "bob.1", "second", long, true, "")
}

func (s *suite) sameReply() {
	big := string(bytes.Repeat([]byte{0, 'x', 0xFF}, 65<<10/3))
	s.begin(s.a, "ann.1", "first", long, true, "")
	s.finish(s.a, "ann.1", "first", big, long, big)
	s.begin(s.b, "ann.1", "second", long, false, big)
	s.begin(s.a, "ann.1", "first", long, false, big)
	s.finish(s.b, "ann.1", "second", "another", long, big)
	s.release(s.a, "ann.1", "first")
	s.begin(s.b, "ann.1", "third", long, false, big)
}

func (s *suite) released() {
	s.release(s.a, "ann.1", "first") // which nobody has
	s.begin(s.a, "ann.1", "first", long, true, "")
	s.release(s.b, "ann.1", "second")
	s.begin(s.b, "ann.1", "second", long, false, "")
	s.release(s.a, "ann.1", "first")
	s.begin(s.b, "ann.1", "second", long, true, "")
}

func (s *suite) lease() {
	s.begin(s.a, "ann.1", "first", 4*s.unit, true, "")
	s.begin(s.a, "ann.2", "first", 4*s.unit, true, "")
	s.begin(s.a, "ann.1", "first", long, true, "")
	time.Sleep(8 * s.unit) // a lease is a time
	s.begin(s.b, "ann.1", "second", long, false, "")
	s.begin(s.b, "ann.2", "second", long, true, "")
	s.begin(s.a, "ann.2", "first", long, false, "")
	s.release(s.a, "ann.2", "first")
	s.begin(s.a, "ann.2", "third", long, false, "")
}

func (s *suite) late() {
	s.begin(s.a, "ann.1", "first", 2*s.unit, true, "")
	s.begin(s.a, "ann.2", "first", 2*s.unit, true, "")
	time.Sleep(4 * s.unit) // a lease is a time
	s.finish(s.a, "ann.1", "first", "done", long, "done")
	s.begin(s.b, "ann.1", "second", long, false, "done")
	s.begin(s.b, "ann.2", "second", long, true, "")
	s.finish(s.a, "ann.2", "first", "one", long, "one")
	s.finish(s.b, "ann.2", "second", "two", long, "one")
}

func (s *suite) window() {
	for _, key := range []string{"ann.1", "ann.2"} {
		s.begin(s.a, key, "first", long, true, "")
		s.finish(s.a, key, "first", "done", 8*s.unit, "done")
	}
	for range 3 { // a window is a time
		time.Sleep(4 * s.unit)
		s.begin(s.b, "ann.1", "second", long, false, "done")
	}
	s.begin(s.a, "ann.2", "second", long, true, "")
	time.Sleep(12 * s.unit)
	s.begin(s.a, "ann.1", "second", long, true, "")
}

// bounds has as many keys of a client and topic as a store keeps.
func (s *suite) bounds() {
	const most = 1000
	done := func(i int) string { return fmt.Sprint("ann.room.", i) }
	s.begin(s.a, "ann.room.running", "first", long, true, "")
	s.begin(s.a, "ann.hall.1", "first", long, true, "")
	s.finish(s.a, "ann.hall.1", "first", "done", long, "done")
	for i := range most {
		s.begin(s.a, done(i), "first", long, true, "")
		s.finish(s.a, done(i), "first", "done", long, "done")
		if i == most-100 {
			s.begin(s.b, done(0), "second", long, false, "done") // now it is the newest
		}
	}
	s.begin(s.b, done(0), "second", long, false, "done")
	s.begin(s.b, done(most-1), "second", long, false, "done")
	s.begin(s.b, "ann.hall.1", "second", long, false, "done") // of another topic
	s.begin(s.b, "ann.room.running", "second", long, false, "")
	s.begin(s.b, done(1), "second", long, true, "") // it was used longest ago
	for i := 2; i < most; i++ {
		s.begin(s.a, fmt.Sprint("ann.room.more.", i), "first", long, true, "")
	}
}

// handled has as many keys that are being handled.
func (s *suite) handled() {
	const most = 1000
	for i := range most {
		s.begin(s.a, fmt.Sprint("ann.room.", i), "first", long, true, "")
	}
	for end := time.Now().Add(50 * s.unit); ; {
		mine, reply, err := s.b.Begin(s.ctx, "ann.room.more", "first", long)
		if errors.Is(err, push.ErrTooManyIDs) {
			break
		}
		if !mine || err != nil || time.Now().After(end) {
			s.Fatalf("%v, %q, %v: want ErrTooManyIDs", mine, reply, err)
		}
		s.release(s.b, "ann.room.more", "first")
		time.Sleep(s.unit / 10) // a node may not know yet of all keys of the other one
	}
	s.begin(s.b, "ann.room.1", "second", long, false, "")
	s.begin(s.b, "ann.hall.1", "second", long, true, "")
	s.begin(s.b, "bob.room.1", "second", long, true, "")
	s.release(s.a, "ann.room.0", "first")
	for end := time.Now().Add(50 * s.unit); ; {
		mine, reply, err := s.b.Begin(s.ctx, "ann.room.more", "first", long)
		if mine {
			break
		}
		if !errors.Is(err, push.ErrTooManyIDs) || time.Now().After(end) {
			s.Fatalf("%v, %q, %v: want the key", mine, reply, err)
		}
		time.Sleep(s.unit / 10) // a node may not know yet what the other one has released
	}
	s.finish(s.a, "ann.room.1", "first", "done", long, "done")
	s.begin(s.a, "ann.room.last", "first", long, true, "") // the reply of 1 was dropped
}

// bytes has replies of many bytes. At least the newest 16 are kept.
func (s *suite) bytes() {
	big := string(bytes.Repeat([]byte("x"), 64<<10))
	for i := range 100 {
		s.begin(s.a, fmt.Sprint("ann.room.", i), "first", long, true, "")
		s.finish(s.a, fmt.Sprint("ann.room.", i), "first", big, long, big)
	}
	for i := 84; i < 100; i++ {
		s.begin(s.b, fmt.Sprint("ann.room.", i), "second", long, false, big)
	}
}

// race has many holders for each key. One of them must finish it, and all get its reply.
func (s *suite) race() {
	const keys, holders = 8, 8
	var wg sync.WaitGroup
	for k := range keys {
		key := fmt.Sprint("ann.", k)
		var mu sync.Mutex
		runs, replies := 0, make(map[string]int)
		for h := range holders {
			holder := fmt.Sprint("holder ", h)
			on := []push.OnceStore{s.a, s.b}[h%2]
			wg.Go(func() {
				for {
					mine, reply, err := on.Begin(s.ctx, key, holder, long)
					if mine && err == nil {
						mu.Lock()
						runs++
						first := runs == 1
						mu.Unlock()
						if first { // it crashed
							err = on.Release(s.ctx, key, holder)
						} else {
							reply, err = on.Finish(s.ctx, key, holder, []byte(holder), long)
						}
					}
					if err != nil {
						s.Error(err)
						return
					}
					if reply != nil {
						mu.Lock()
						replies[string(reply)]++
						mu.Unlock()
						return
					}
					time.Sleep(s.unit / 20) // as a node waits for another one
				}
			})
		}
		defer func() {
			if runs != 2 || len(replies) != 1 {
				s.Errorf("%s: %d runs, replies %v; want 2 runs and 1 reply", key, runs, replies)
			}
		}()
	}
	wg.Wait()
}
