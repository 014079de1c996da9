package socket

import (
	"sync"

	"bennu.example/internal/channelhost"
)

// background counts goroutines for which Shutdown waits. They may begin at any time.
type background struct {
	mu      sync.Mutex
	running sync.WaitGroup
	ended   bool
}

func (b *background) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	b.running.Add(1)
	return true
}

// end waits for all. No other can begin.
func (b *background) end() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.running.Wait()
}

var _ channelhost.Worker = (*session)(nil)

// WorkBegan is part of channelhost.Worker.
func (s *session) WorkBegan() bool { return s.h.background.begin() }

// WorkEnded is part of channelhost.Worker.
func (s *session) WorkEnded() { s.h.background.running.Done() }
