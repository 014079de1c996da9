package brokertest

import (
	"sync"
	"sync/atomic"
	"time"
)

// stream continuously publishes numbers from a node.
type stream struct {
	name string
	n    *node
	next atomic.Int64
	quit chan struct{}
	wg   sync.WaitGroup
}

// publish starts a stream. Numbers that the adapter refuses are missing in it.
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

// more waits until count more numbers were published, and returns the next number.
func (s *stream) more(count int64) int {
	end := s.next.Load() + count
	s.n.waitUntil("publishing", func() bool { return s.next.Load() >= end })
	return int(s.next.Load())
}

// stop stops the stream and returns its last number.
func (s *stream) stop() int {
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
	s.wg.Wait()
	return int(s.next.Load()) - 1
}
