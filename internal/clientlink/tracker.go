package clientlink

import "sync"

// Tracker is like a WaitGroup, but Add may be called while another goroutine waits.
type Tracker struct {
	mu   sync.Mutex
	n    int
	idle chan struct{}
}

// Add increments the counter.
func (t *Tracker) Add() {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
}

// Done decrements the counter.
func (t *Tracker) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// Idle returns a channel that is closed once the counter is zero, or nil if it is zero now.
func (t *Tracker) Idle() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	return t.idle
}
