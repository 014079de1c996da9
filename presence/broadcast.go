package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"weak"

	"bennu.example/internal/safecall"
	"bennu.example/serializer"
)

// fetchTimeout is the lifetime of Fetch's context.
const fetchTimeout = 10 * time.Second

// maxQueued is how many changes of a topic may be queued behind a slow Fetch before they are merged
// into one diff.
const maxQueued = 64

// maxMade is how many rooms get distinct sequence numbers, for cursors, before the numbers are
// reused. The numbers are shifted left by 32 bits and must stay positive.
const maxMade = 1 << 30

// If Config.Window is zero, the diffs of a topic with windowFrom keys or more are at least
// windowPerClient apart for each of its keys or subscribers, but not more than maxWindow. Sending a
// diff to a client takes the server some 10 µs, so that this is a fraction of one processor.
const (
	windowFrom      = 256
	windowPerClient = 50 * time.Microsecond
	maxWindow       = time.Second
)

// maxWorkers is how many topics of a shard may run Fetch and OnDiff at the same time.
const maxWorkers = 8

// change applies c to the topic's room and queues the diff. It returns the room if the caller must
// broadcast it after unlocking, and nil otherwise. The caller holds the lock.
func (s *shard) change(topic string, c change) *room {
	if len(c.joins)+len(c.leaves) == 0 {
		return nil
	}
	r, ok := s.rooms[topic]
	if !ok {
		s.made = (s.made + 1) % maxMade
		r = &room{topic: topic}
		r.keys.seq = s.made << 32
		s.rooms[topic] = r
	}
	for _, e := range c.joins { // joins first, so that a key keeps its position in an update
		isNew := r.add(e)
		if !isNew {
			r.listing = weak.Pointer[listing]{}
		}
		if isNew && s.online != nil {
			s.online[e.key]++
		}
	}
	if len(c.leaves) > 0 {
		r.listing = weak.Pointer[listing]{}
	}
	for _, e := range c.leaves {
		if r.remove(e) && s.online != nil {
			if s.online[e.key]--; s.online[e.key] == 0 {
				delete(s.online, e.key)
			}
		}
	}
	r.queue = append(r.queue, c)
	if r.state != resting {
		return nil
	}
	if s.wait(r) {
		return nil
	}
	r.state = busy
	return r
}

// wait starts the window of r and reports whether there is one. The caller holds the lock.
func (s *shard) wait(r *room) bool {
	w := s.p.windowFor(r)
	if w <= 0 {
		return false
	}
	r.state = waiting
	time.AfterFunc(w, func() { s.due(r) })
	return true
}

// windowFor returns how long the changes of r are to be collected from now on.
func (p *Presence) windowFor(r *room) time.Duration {
	c := &p.cfg
	size := r.keys.len()
	if c.Window == 0 {
		size = max(size, int(r.audience))
	}
	switch {
	case c.Window < 0 || size < c.WindowFrom:
		return 0
	case c.Window > 0:
		return c.Window
	case r.sent == 0:
		return 0
	}
	return r.sent + min(time.Duration(size)*windowPerClient, maxWindow) - p.now()
}

// now returns a positive time, for the differences of such times. It is smaller than a time.Time.
func (p *Presence) now() time.Duration { return 1 + time.Since(p.started) }

// due broadcasts the changes of a room when its window ends.
func (s *shard) due(r *room) {
	s.mu.Lock()
	r.state = busy
	if len(r.queue) > 1 {
		r.queue = []change{merged(r.queue)}
	}
	s.mu.Unlock()
	s.broadcastRooms(r)
}

// broadcastRooms broadcasts the queued changes of rooms that the caller marked busy. It calls no
// user code: rooms with callbacks or hooks are handed to the workers.
func (s *shard) broadcastRooms(rooms ...*room) {
	for _, r := range rooms {
		if r != nil && (s.p.observed(r) || s.broadcastNext(r)) {
			s.enqueue(r)
		}
	}
}

// observed reports whether a broadcast to r calls user code.
func (p *Presence) observed(r *room) bool {
	return p.cfg.OnDiff != nil || len(p.cfg.Hooks) > 0 || p.cfg.Fetch != nil && p.ps.Subscribers(r.topic) > 0
}

// enqueue hands r to the workers. It starts a worker unless maxWorkers are running.
func (s *shard) enqueue(r *room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.ready = append(s.ready, r)
	if s.workers < maxWorkers {
		s.workers++
		s.p.work.Go(s.worker)
	}
}

// worker broadcasts one diff of each ready room in turn, until no room is ready.
func (s *shard) worker() {
	var r *room
	defer func() {
		if r != nil { // the callback called runtime.Goexit
			s.mu.Lock()
			s.workers--
			s.mu.Unlock()
			s.enqueue(r)
		}
	}()
	for {
		s.mu.Lock()
		if len(s.ready) == 0 {
			s.ready = nil
			s.workers--
			s.mu.Unlock()
			return
		}
		r = s.ready[0]
		s.ready[0] = nil
		s.ready = s.ready[1:]
		s.mu.Unlock()
		more := s.broadcastNext(r)
		again := r
		r = nil
		if more {
			s.mu.Lock()
			s.ready = append(s.ready, again)
			s.mu.Unlock()
		}
	}
}

// broadcastNext broadcasts the next diff of r, which is busy, and reports whether there are more.
// If there are none, it marks r as resting and removes it if it is empty.
func (s *shard) broadcastNext(r *room) (more bool) {
	s.mu.Lock()
	if s.closed {
		r.queue = nil
	}
	if len(r.queue) > 0 {
		c := r.queue[0]
		if len(r.queue) > maxQueued {
			c = merged(r.queue)
			r.queue = nil
		} else {
			r.queue[0] = change{}
			r.queue = r.queue[1:]
		}
		s.mu.Unlock()
		audience := s.p.broadcast(r, c)
		if len(c.joins)+len(c.leaves) > 0 {
			s.p.notifyDiff(r.topic, c, audience)
		}
		s.mu.Lock()
		r.audience, r.sent = int32(audience), s.p.now()
	}
	more = len(r.queue) > 0
	if more && s.p.cfg.Window == 0 && s.wait(r) {
		more = false
	} else if !more {
		r.queue, r.state = nil, resting
		if r.keys.len() == 0 && s.rooms[r.topic] == r {
			delete(s.rooms, r.topic)
		}
	}
	s.mu.Unlock()
	return more
}

// merged merges several changes into one. Entries that both joined and left are omitted.
func merged(changes []change) change {
	var joins, leaves ordered[*entry]
	gone := map[string]*entry{} // entries that joined and left, by ref
	for _, c := range changes {
		for _, e := range c.joins {
			put(&joins, &leaves, e)
		}
		for _, e := range c.leaves {
			if !put(&leaves, &joins, e) {
				gone[e.ref()] = e
			}
		}
	}
	all := change{values(&joins), values(&leaves)}
	for i, e := range all.joins {
		prev := e.prev
		for prev != 0 {
			g, ok := gone[string(appendRef(nil, e.tag, prev))]
			if !ok {
				break
			}
			prev = g.prev
		}
		if prev != e.prev { // the entry that it replaced was never broadcast
			all.joins[i] = &entry{key: e.key, meta: e.meta, tag: e.tag, clock: e.clock, prev: prev}
		}
	}
	return all
}

// put adds e to one side, or removes it from the other side if it is there.
func put(to, other *ordered[*entry], e *entry) (added bool) {
	ref := e.ref()
	if other.find(ref) >= 0 {
		other.remove(ref)
		return false
	}
	at, _ := to.at(ref)
	*at = e
	return true
}

func values(o *ordered[*entry]) []*entry {
	var all []*entry
	for _, e := range o.all() {
		all = append(all, *e)
	}
	return all
}

// broadcast sends a diff to this node's subscribers of the room and calls OnDiff. It returns the
// number of subscribers.
func (p *Presence) broadcast(r *room, c change) (subscribers int) {
	subscribers = p.ps.Subscribers(r.topic)
	if len(c.joins)+len(c.leaves) == 0 || subscribers == 0 && p.cfg.OnDiff == nil {
		return subscribers
	}
	if p.cfg.Fetch == nil && p.cfg.OnDiff == nil {
		p.send(r.topic, c.appendJSON(make([]byte, 0, 256)))
		return subscribers
	}
	d := Diff{stateOf(c.joins), stateOf(c.leaves)}
	p.fetch(r.topic, &d.Joins, &d.Leaves)
	if subscribers > 0 {
		p.send(r.topic, d.appendJSON(nil))
	}
	if p.cfg.OnDiff == nil {
		return subscribers
	}
	r.shown.merge(d, nil, nil)
	if err := callUser(func() error { p.cfg.OnDiff(r.topic, d, r.shown); return nil }); err != nil {
		p.log.Error().Err(err).Str("topic", r.topic).Msg("presence: OnDiff failed")
	}
	return subscribers
}

func (p *Presence) send(topic string, diff []byte) {
	if err := p.ps.LocalBroadcast(topic, EventDiff, encoded(diff)); err != nil {
		p.log.Error().Err(err).Str("topic", topic).Msg("presence: diff broadcast failed")
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

// fetch calls Fetch once for the keys of all states and stores the extra fields in them.
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
	err := callUser(func() (err error) {
		if fields, err = p.cfg.Fetch(ctx, topic, keys); err != nil {
			_ = err.Error() // if Error panics, it does so here and not in the logger
		}
		return err
	})
	if err != nil {
		p.log.Error().Err(err).Str("topic", topic).Msg("presence: Fetch failed")
		return
	}
	for key, v := range fields {
		var extra map[string]json.RawMessage
		err := callUser(func() (err error) { extra, err = encodeExtra(v); return err }) // v may have a MarshalJSON
		if err != nil {
			p.log.Error().Err(err).Str("topic", topic).Msg("presence: Fetch returned a value that is not an object")
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

// callUser calls user code and returns a panic as an error, with its stack.
func callUser(f func() error) error {
	err := safecall.Do(f, nil)
	if p, ok := errors.AsType[*safecall.PanicError](err); ok {
		return fmt.Errorf("%w\n%s", err, p.Stack)
	}
	return err
}
