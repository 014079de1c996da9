package presence

import (
	"context"
	"errors"
	"slices"
	"time"

	"bennu.example/channel"
)

// lingering are the presences whose owner was lost, and which wait for the grace period to end or for the same key to come back. Its shard
// guards it.
type lingering struct {
	queue []lost // by time
	where map[place][]lost
	timer *time.Timer
}

type lost struct {
	e     *entry
	until time.Time
}

type place struct{ topic, key string }

// leftForGood reports whether a channel's client left, or the channel stopped, so that nobody is expected back.
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

// take is one that waits at a place: one with this meta if there is one, otherwise the one that waits longest.
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

// forget reports whether w was waiting still; now it is not.
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

// expire ends those whose grace period is over.
func (s *shard) expire() {
	s.mu.Lock()
	l := &s.linger
	now := time.Now()
	var gone []*entry
	n := 0
	for n < len(l.queue) && !now.Before(l.queue[n].until) {
		if l.forget(l.queue[n]) { // else it was taken, and may have been lost again since
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
	s.tell(rooms...)
}

// adopt has o take over what lingers for the key. If the meta is the same, nothing changes for anyone; otherwise it is an update.
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

// arrived ends what lingers here for keys that have come back on another node.
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
