package natsengine

import (
	"context"
	"math"
	"sync"
	"time"

	"bennu.example/state"
)

const (
	// countAge is how long a node relies on what it knows of the number of objects.
	countAge = 10 * time.Second
	// recountDelay is the time between two counts of a node that may create no more objects.
	recountDelay = time.Second
)

// objectCount bounds the number of objects. A node asks the server for it from time to time, and
// adds what it has created itself since then. So the objects of all nodes may be a few more.
type objectCount struct {
	most int           // zero means no bound
	turn chan struct{} // has an element while an object is admitted

	mu sync.Mutex
	n  int
	at time.Time // when the server was asked; zero means never
}

func (x *objectCount) init(most int) {
	x.most, x.turn = most, make(chan struct{}, 1)
}

// add notes that this node has created an object, or removed one.
func (x *objectCount) add(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.n += n
}

// isStale reports whether the server must be asked before another object is created.
func (x *objectCount) isStale() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	age := time.Since(x.at)
	return x.at.IsZero() || age >= countAge || x.n >= x.most && age >= recountDelay
}

// admit returns an error if no further object may be created.
func (s *objects) admit(ctx context.Context) error {
	x := &s.count
	if x.most <= 0 {
		return nil
	}
	select {
	case x.turn <- struct{}{}:
		defer func() { <-x.turn }()
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
	if x.isStale() {
		n, err := s.countObjects(ctx)
		if err != nil {
			return err
		}
		x.mu.Lock()
		x.n, x.at = n, time.Now()
		x.mu.Unlock()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.n >= x.most {
		return &state.LimitError{Err: state.ErrQuota, What: "objects", Max: x.most}
	}
	return nil
}

// countObjects asks the server how many objects have a log. Those that were removed have one for
// goneFor, or for writeIDAge if an ID of the removal is remembered.
func (s *objects) countObjects(ctx context.Context) (int, error) {
	// The answer has the number of all subjects, and a page of their names, which begins behind them.
	page := map[string]any{"subjects_filter": s.prefix + ".o.*", "offset": math.MaxInt32}
	info, err := s.streamRequest(ctx, "INFO", page)
	return info.Total, err
}
