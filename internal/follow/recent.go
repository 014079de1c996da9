package follow

import (
	"sync"
	"time"

	"bennu.example/history"
)

const (
	maxRecent  = 1024
	recentTime = 2 * time.Second
)

// recent has the positions of records that were just appended to topics that are not in use on this
// node, or whose cursor is not known because the log has lost records. Messages that follow them
// carry these positions.
type recent struct {
	mu sync.Mutex
	m  map[string]recentRecord
}

type recentRecord struct {
	position history.Position
	until    time.Time
}

func (s *recent) add(topic string, p history.Position) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.m) >= maxRecent {
		for name, r := range s.m {
			if !now.Before(r.until) {
				delete(s.m, name)
			}
		}
		if len(s.m) >= maxRecent {
			clear(s.m)
		}
	}
	if s.m == nil {
		s.m = make(map[string]recentRecord)
	}
	if r, ok := s.m[topic]; !ok || !reached(r.position, p) {
		s.m[topic] = recentRecord{p, now.Add(recentTime)}
	}
}

func (s *recent) get(topic string) history.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.m[topic]; ok && time.Now().Before(r.until) {
		return r.position
	}
	return history.Position{}
}

// Sent returns the position of the newest record of a topic that this node has delivered or
// appended, as far as it knows. The zero Position means none.
func (s *Topics[B]) Sent(name string) history.Position {
	if t := s.Find(name); t != nil {
		defer t.Release()
		if p := t.Cursor(); !p.IsZero() {
			return p
		}
	}
	return s.recent.get(name)
}
