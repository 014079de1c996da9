package presence

import (
	"errors"
	"reflect"
	"slices"
	"sync"

	"bennu.example/internal/crdt"
)

var (
	// errChanged is returned by update if the entry to be replaced is no longer current.
	errChanged = errors.New("changed concurrently")
	// errOwner is returned for owners that would panic as map keys.
	errOwner = errors.New("owner is not comparable")
)

// shard holds a part of the topics: who is present on them, and what the owners on this node track.
// In a cluster, each shard is a replica of its own.
//
// Its methods lock mu. User code is never called under the lock, and neither is a broadcast.
type shard struct {
	p      *Presence
	tag    uint64 // prefix of the refs of this node
	gossip *gossiper

	mu     sync.Mutex
	closed bool
	set    *crdt.Set[*entry]
	rooms  map[string]*room
	made   int64 // number of rooms created, modulo maxMade
	owners map[Owner]*owner
	online map[string]int // number of topics by key; nil until the first call of Online
	linger lingering

	ready   []*room // rooms whose diffs the workers must broadcast
	workers int
}

// owner is the record of an Owner that has tracked something and has not ended.
type owner struct {
	entries []*entry
	ended   bool
}

func newShard(p *Presence, self crdt.Replica, deltas bool) *shard {
	return &shard{
		p: p, tag: tagOf(self), set: crdt.New[*entry](self, deltas),
		rooms: make(map[string]*room), owners: make(map[Owner]*owner),
	}
}

// close closes the shard and reports whether it was open.
func (s *shard) close() (wasOpen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wasOpen = !s.closed
	s.closed = true
	s.ready = nil
	s.linger.stop()
	return wasOpen
}

func (s *shard) track(by Owner, topic, key, meta string) (string, error) {
	if !isOwner(by) {
		return "", errOwner
	}
	o := s.register(by)
	s.mu.Lock()
	if s.closed || o.ended {
		s.mu.Unlock()
		return "", ErrClosed
	}
	if s.find(o, topic, key) != nil {
		s.mu.Unlock()
		return "", ErrTracked
	}
	e, c := s.adopt(o, topic, key, meta)
	if e == nil {
		e = s.add(o, &entry{topic: topic, key: key, meta: meta})
		c.joins = []*entry{e}
	}
	r := s.change(topic, c)
	s.mu.Unlock()
	s.broadcastRooms(r)
	return e.ref(), nil
}

// add adds e as a presence of o.
func (s *shard) add(o *owner, e *entry) *entry {
	e.tag, e.owner = s.tag, o
	s.intern(e)
	e.clock = s.set.Add(e)
	o.entries = append(o.entries, e)
	s.stir()
	return e
}

// intern replaces the topic of e by the equal string of its room, to save memory. No other
// goroutine may have e yet.
func (s *shard) intern(e *entry) {
	if r := s.rooms[e.topic]; r != nil {
		e.topic = r.topic
	}
}

// remove reverts add, except for the list in o.
func (s *shard) remove(e *entry) {
	s.set.Remove(e.clock)
	s.stir()
}

// update replaces the meta of what an owner tracks. If current is not nil, it replaces only that
// entry.
func (s *shard) update(by Owner, topic, key, meta string, current *entry) (string, error) {
	s.mu.Lock()
	o := s.owner(by)
	old := s.find(o, topic, key)
	switch {
	case s.closed:
		s.mu.Unlock()
		return "", ErrClosed
	case old == nil:
		s.mu.Unlock()
		return "", ErrNotTracked
	case current != nil && current != old:
		s.mu.Unlock()
		return "", errChanged
	}
	o.drop(old)
	e := s.replace(o, old, meta)
	r := s.change(topic, change{joins: []*entry{e}, leaves: []*entry{old}})
	s.mu.Unlock()
	s.broadcastRooms(r)
	return e.ref(), nil
}

// replace adds a presence of o that replaces old.
func (s *shard) replace(o *owner, old *entry, meta string) *entry {
	s.remove(old)
	return s.add(o, &entry{topic: old.topic, key: old.key, meta: meta, prev: old.clock})
}

func (s *shard) untrack(by Owner, topic, key string) {
	s.mu.Lock()
	o := s.owner(by)
	e := s.find(o, topic, key)
	if s.closed || e == nil {
		s.mu.Unlock()
		return
	}
	o.drop(e)
	s.remove(e)
	r := s.change(topic, change{leaves: []*entry{e}})
	s.mu.Unlock()
	s.broadcastRooms(r)
}

func (s *shard) untrackAll(by Owner) {
	s.mu.Lock()
	var rooms []*room
	if o := s.owner(by); o != nil && !s.closed {
		rooms = s.dropAll(o.takeAll())
	}
	s.mu.Unlock()
	s.broadcastRooms(rooms...)
}

// dropAll removes presences of this node and returns the rooms to broadcast.
func (s *shard) dropAll(entries []*entry) []*room {
	for _, e := range entries {
		s.remove(e)
	}
	return s.apply(nil, entries)
}

// apply updates the rooms with one diff for each topic, and returns the rooms to broadcast.
func (s *shard) apply(joins, leaves []*entry) []*room {
	var changes ordered[change] // by topic
	for _, e := range joins {
		c, _ := changes.at(e.topic)
		c.joins = append(c.joins, e)
	}
	for _, e := range leaves {
		c, _ := changes.at(e.topic)
		c.leaves = append(c.leaves, e)
	}
	var rooms []*room
	for topic, c := range changes.all() {
		if r := s.change(topic, *c); r != nil {
			rooms = append(rooms, r)
		}
	}
	return rooms
}

// isOwner reports whether by can be used as a map key.
func isOwner(by Owner) bool { return by != nil && reflect.ValueOf(by).Comparable() }

// owner returns the record of an owner, or nil.
func (s *shard) owner(by Owner) *owner {
	if !isOwner(by) {
		return nil
	}
	return s.owners[by]
}

// register returns the record of an owner. It creates the record if there is none and subscribes to
// the owner's end.
func (s *shard) register(by Owner) *owner {
	s.mu.Lock()
	o, ok := s.owners[by]
	if !ok {
		o = new(owner)
		s.owners[by] = o
	}
	s.mu.Unlock()
	if !ok && !by.OnEnd(func() { s.ended(by, o) }) {
		s.ended(by, o)
	}
	return o
}

// ended removes what an owner tracked. If the owner may return, the presences stay for the grace
// period.
func (s *shard) ended(by Owner, o *owner) {
	mayReturn := s.p.cfg.Grace > 0 && !leftForGood(by)
	s.mu.Lock()
	o.ended = true
	delete(s.owners, by)
	entries := o.takeAll()
	var rooms []*room
	switch {
	case s.closed:
	case mayReturn:
		s.linger.add(s, entries)
	default:
		rooms = s.dropAll(entries)
	}
	s.mu.Unlock()
	s.broadcastRooms(rooms...)
}

// find returns the entry that o tracks under the key on the topic, or nil. If o has many entries,
// it searches the metas of the key instead.
func (s *shard) find(o *owner, topic, key string) *entry {
	if o == nil {
		return nil
	}
	if len(o.entries) <= few {
		for _, e := range o.entries {
			if e.key == key && e.topic == topic {
				return e
			}
		}
		return nil
	}
	if r := s.rooms[topic]; r != nil {
		m, _ := r.keys.get(key)
		for e := m.first; e != nil; e = e.after {
			if e.owner == o {
				return e
			}
		}
	}
	return nil
}

func (o *owner) drop(e *entry) {
	i := slices.Index(o.entries, e)
	o.entries = slices.Delete(o.entries, i, i+1)
}

func (o *owner) takeAll() []*entry {
	all := o.entries
	o.entries = nil
	return all
}

func (s *shard) tracked(by Owner, topic, key string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(s.owner(by), topic, key)
}

// read calls f with the room of a topic, if there is one. It holds the lock during the call.
func (s *shard) read(topic string, f func(*room)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms[topic]; r != nil {
		f(r)
	}
}

// all returns the entries of a topic, grouped by key.
func (s *shard) all(topic string) (all []*entry) {
	s.read(topic, func(r *room) { all = r.after(0) })
	return all
}

// isOnline sets yes for each of the keys that is present on any topic.
func (s *shard) isOnline(keys []string, yes []bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.online == nil {
		s.online = make(map[string]int)
		for _, r := range s.rooms {
			for key := range r.keys.all() {
				s.online[key]++
			}
		}
	}
	for i, key := range keys {
		yes[i] = yes[i] || s.online[key] > 0
	}
}
