package presence

import (
	"context"
	"errors"
	"slices"
	"time"

	"bennu.example/channel"
)

// lingering holds the presences whose owner was lost and whose grace period has not ended. The lock
// of the shard guards it.
type lingering struct {
	queue []lost // ordered by until
	where map[place][]lost
	timer *time.Timer
}

type lost struct {
	e     *entry
	until time.Time
}

type place struct{ topic, key string }

// leftForGood reports whether the channel's client left or the server stopped the channel, so that
// the client is not expected to return.
func leftForGood(o Owner) bool {
	c, ok := o.(interface{ Context() context.Context })
	if !ok {
		return false
	}
	cause := context.Cause(c.Context())
	return errors.Is(cause, channel.ErrLeft) || errors.Is(cause, channel.ErrStop)
}

func (l *lingering) add(s *shard, entries []*entry) {
	if len(entries) == 0 {
		return
	}
	if l.where == nil {
		l.where = make(map[place][]lost)
	}
	until := time.Now().Add(s.p.cfg.Grace)
	for _, e := range entries {
		e.owner = nil
		l.queue = append(l.queue, lost{e, until})
		at := place{e.topic, e.key}
		l.where[at] = append(l.where[at], lost{e, until})
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(s.p.cfg.Grace, s.expire)
	}
}

// take removes and returns an entry with this topic and key, or nil. It prefers one with the same
// meta; otherwise it takes the oldest.
func (l *lingering) take(topic, key, meta string) *entry {
	waiting := l.where[place{topic, key}]
	if len(waiting) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(waiting, func(w lost) bool { return w.e.meta == meta }))
	e := waiting[i].e
	l.forget(waiting[i])
	return e
}

// forget removes w and reports whether it was present.
func (l *lingering) forget(w lost) bool {
	at := place{w.e.topic, w.e.key}
	i := slices.Index(l.where[at], w)
	if i < 0 {
		return false
	}
	if l.where[at] = slices.Delete(l.where[at], i, i+1); len(l.where[at]) == 0 {
		delete(l.where, at)
	}
	return true
}

func (l *lingering) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.queue, l.where = nil, nil
}

// expire removes the presences whose grace period has ended.
func (s *shard) expire() {
	s.mu.Lock()
	l := &s.linger
	now := time.Now()
	var gone []*entry
	n := 0
	for n < len(l.queue) && !now.Before(l.queue[n].until) {
		if l.forget(l.queue[n]) { // false if it was adopted, even if it was lost again since
			gone = append(gone, l.queue[n].e)
		}
		n++
	}
	l.queue = l.queue[n:]
	l.timer = nil
	if len(l.queue) > 0 {
		l.timer = time.AfterFunc(l.queue[0].until.Sub(now), s.expire)
	} else {
		l.queue = nil
	}
	var rooms []*room
	if !s.closed {
		rooms = s.dropAll(gone)
	}
	s.mu.Unlock()
	s.broadcastRooms(rooms...)
}

// adopt makes o the owner of an entry for the key in its grace period. If the meta is the same,
// clients see no change; otherwise they see an update.
func (s *shard) adopt(o *owner, topic, key, meta string) (e *entry, c change) {
	old := s.linger.take(topic, key, meta)
	switch {
	case old == nil:
		return nil, c
	case old.meta == meta:
		old.owner = o
		o.entries = append(o.entries, old)
		return old, c
	}
	e = s.replace(o, old, meta)
	return e, change{joins: []*entry{e}, leaves: []*entry{old}}
}

// arrived removes the presences in their grace period whose keys were tracked again on another
// node.
func (s *shard) arrived(joins []*entry) (gone []*entry) {
	if len(s.linger.where) == 0 {
		return nil
	}
	for _, e := range joins {
		if old := s.linger.take(e.topic, e.key, e.meta); old != nil {
			s.remove(old)
			gone = append(gone, old)
		}
	}
	return gone
}
