package brokertest

import (
	"sync"
	"sync/atomic"
	"time"
)

// stream is a node that publishes numbers all the time.
type stream struct {
	name string
	n    *node
	next atomic.Int64
	quit chan struct{}
	wg   sync.WaitGroup
}

// publish starts a stream. What the adapter refuses is missing in it.
func (n *node) publish(name string) *stream {
	s := &stream{name: name, n: n, quit: make(chan struct{})}
	s.wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = n.broadcast(name, int(s.next.Load()))
				s.next.Add(1)
			case <-s.quit:
				return
			}
		}
	})
	n.t.Cleanup(func() { s.stop() })
	return s
}

// more waits until so many more were published, and returns the next number.
func (s *stream) more(count int64) int {
	end := s.next.Load() + count
	s.n.until("publishing", func() bool { return s.next.Load() >= end })
	return int(s.next.Load())
}

// stop ends the stream and returns its last number.
func (s *stream) stop() int {
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
	s.wg.Wait()
	return int(s.next.Load()) - 1
}
