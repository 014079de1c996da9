package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"bennu.example/serializer"
)

// fetchTimeout is how long the context of a Fetch lasts.
const fetchTimeout = 10 * time.Second

// backlog is how many changes of a topic may wait, behind a slow Fetch, before they become one diff.
const backlog = 64

// change is what one operation did to a topic: one diff.
type change struct{ joins, leaves []*entry }

// change changes who is on a topic, and queues the diff. It returns the room if the caller is to tell it, after unlocking.
func (s *shard) change(topic string, joins, leaves []*entry) *room {
	r, ok := s.rooms[topic]
	if !ok {
		r = &room{topic: topic}
		s.rooms[topic] = r
	}
	for _, e := range joins { // first, so that a key keeps its place in an update
		r.add(e)
	}
	for _, e := range leaves {
		r.remove(e)
	}
	r.queue = append(r.queue, change{joins, leaves})
	if r.busy {
		return nil
	}
	r.busy = true
	return r
}

// tell broadcasts what is queued for the rooms: at once, unless that calls user code.
func (s *shard) tell(rooms ...*room) {
	for _, r := range rooms {
		if r == nil {
			continue
		}
		if s.p.cfg.Fetch != nil || s.p.cfg.OnDiff != nil || s.tellNext(r) {
			s.spawn(r)
		}
	}
}

// spawn has a goroutine broadcast the queue of r.
func (s *shard) spawn(r *room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.p.work.Go(func() {
		exited := true
		defer func() {
			if exited { // by a callback's runtime.Goexit
				s.spawn(r)
			}
		}()
		for s.tellNext(r) {
		}
		exited = false
	})
}

// tellNext broadcasts the next diff of r, which the caller made busy, and reports whether there are more. If not, r is at rest.
func (s *shard) tellNext(r *room) (more bool) {
	s.mu.Lock()
	if s.closed {
		r.queue = nil
	}
	if len(r.queue) > 0 {
		c := r.queue[0]
		if len(r.queue) > backlog {
			c = merged(r.queue)
			r.queue = nil
		} else {
			r.queue[0] = change{}
			r.queue = r.queue[1:]
		}
		s.mu.Unlock()
		s.p.broadcast(r, c)
		s.mu.Lock()
	}
	more = len(r.queue) > 0
	if !more {
		r.queue, r.busy = nil, false
		if r.keys.len() == 0 && s.rooms[r.topic] == r {
			delete(s.rooms, r.topic)
		}
	}
	s.mu.Unlock()
	return more
}

// merged is several changes as one. What came and went meanwhile is in none of its sides.
func merged(changes []change) change {
	var joins, leaves ordered[*entry]
	for _, c := range changes {
		for _, e := range c.joins {
			put(&joins, &leaves, e)
		}
		for _, e := range c.leaves {
			put(&leaves, &joins, e)
		}
	}
	return change{values(&joins), values(&leaves)}
}

func put(to, other *ordered[*entry], e *entry) {
	ref := e.ref()
	if other.find(ref) >= 0 {
		other.remove(ref)
		return
	}
	at, _ := to.at(ref)
	*at = e
}

func values(o *ordered[*entry]) []*entry {
	var all []*entry
	for _, e := range o.all() {
		all = append(all, *e)
	}
	return all
}

// broadcast sends a diff to this node's subscribers of the room, and tells OnDiff.
func (p *Presence) broadcast(r *room, c change) {
	if len(c.joins)+len(c.leaves) == 0 {
		return
	}
	heard := p.ps.Subscribers(r.topic) > 0
	if !heard && p.cfg.OnDiff == nil {
		return
	}
	d := Diff{stateOf(c.joins), stateOf(c.leaves)}
	p.fetch(r.topic, &d.Joins, &d.Leaves)
	if heard {
		if err := p.ps.LocalBroadcast(r.topic, EventDiff, encoded(d.appendJSON(nil))); err != nil {
			p.log.Error().Err(err).Str("topic", r.topic).Msg("presence: diff did not reach all")
		}
	}
	if p.cfg.OnDiff != nil {
		r.told.merge(d, nil, nil)
		err := guard(func() error { p.cfg.OnDiff(r.topic, d, r.told); return nil })
		if err != nil {
			p.log.Error().Err(err).Str("topic", r.topic).Msg("presence: OnDiff crashed")
		}
	}
}

func stateOf(entries []*entry) State {
	var s State
	for _, e := range entries {
		at, _ := s.entries.at(e.key)
		at.Metas = append(at.Metas, e.public())
	}
	return s
}

// fetch asks Fetch once for all that the states lack.
func (p *Presence) fetch(topic string, states ...*State) {
	if p.cfg.Fetch == nil {
		return
	}
	var all ordered[struct{}]
	for _, s := range states {
		for key := range s.entries.all() {
			all.at(key)
		}
	}
	if all.len() == 0 {
		return
	}
	keys := make([]string, 0, all.len())
	for key := range all.all() {
		keys = append(keys, key)
	}
	ctx, cancel := context.WithTimeout(p.ctx, fetchTimeout)
	defer cancel()
	var fields map[string]any
	err := guard(func() (err error) { fields, err = p.cfg.Fetch(ctx, topic, keys); return err })
	if err != nil {
		p.log.Error().Err(err).Str("topic", topic).Msg("presence: fetch failed")
		return
	}
	for key, v := range fields {
		extra, err := encodeExtra(v)
		if err != nil {
			p.log.Error().Err(err).Str("topic", topic).Msg("presence: fetch gave what is no object")
			continue
		}
		for _, s := range states {
			if i := s.entries.find(key); i >= 0 {
				s.entries.items[i].value.Extra = extra
			}
		}
	}
}

func encodeExtra(v any) (extra map[string]json.RawMessage, err error) {
	raw, err := serializer.Value(v).JSON()
	if err == nil {
		err = json.Unmarshal(raw, &extra)
	}
	delete(extra, "metas")
	return extra, err
}

// guard calls user code and turns a panic into an error.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return f()
}
