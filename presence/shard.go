package presence

import (
	"errors"
	"reflect"
	"slices"
	"sync"

	"bennu.example/internal/crdt"
)

var (
	// errChanged is returned by update if what is to be replaced is not the current one any more.
	errChanged = errors.New("changed meanwhile")
	// errOwner is for owners by which a map would panic.
	errOwner = errors.New("the owner cannot be compared with others")
)

// shard is a part of the topics: who is there, and which owners of this node track what. Each is a replica of its own among the nodes of a
// cluster. Its methods lock it. User code, broadcasts among it, is never called under the lock.
type shard struct {
	p      *Presence
	tag    uint64 // of this node's refs
	gossip *gossiper

	mu     sync.Mutex
	closed bool
	set    *crdt.Set[*entry]
	rooms  map[string]*room
	made   int64 // rooms so far, modulo maxMade
	owners map[Owner]*owner
	online map[string]int // on how many topics each key is; nil until someone asks
	linger lingering

	ready   []*room // whose diffs are due, for the workers
	workers int
}

// owner is an Owner from when it first tracks until it ends.
type owner struct {
	entries []*entry
	ended   bool
}

func newShard(p *Presence, self crdt.Replica, deltas bool) *shard {
	return &shard{
		p: p, tag: tagOf(self), set: crdt.New[*entry](self, deltas), rooms: make(map[string]*room), owners: make(map[Owner]*owner),
	}
}

// close reports whether it was open.
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
	s.tell(r)
	return e.ref(), nil
}

// add makes e a presence of o's.
func (s *shard) add(o *owner, e *entry) *entry {
	e.tag, e.owner = s.tag, o
	s.intern(e)
	e.clock = s.set.Add(e)
	o.entries = append(o.entries, e)
	s.stir()
	return e
}

// intern gives e, which nobody else has yet, the topic's string that others have.
func (s *shard) intern(e *entry) {
	if r := s.rooms[e.topic]; r != nil {
		e.topic = r.topic
	}
}

// remove takes back what add did, but for o's list.
func (s *shard) remove(e *entry) {
	s.set.Remove(e.clock)
	s.stir()
}

// update replaces what an owner tracks: only current, unless that is nil.
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
	s.tell(r)
	return e.ref(), nil
}

// replace makes a presence of o's in the place of another.
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
	s.tell(r)
}

func (s *shard) untrackAll(by Owner) {
	s.mu.Lock()
	var rooms []*room
	if o := s.owner(by); o != nil && !s.closed {
		rooms = s.dropAll(o.takeAll())
	}
	s.mu.Unlock()
	s.tell(rooms...)
}

// dropAll ends presences of this node.
func (s *shard) dropAll(entries []*entry) []*room {
	for _, e := range entries {
		s.remove(e)
	}
	return s.apply(nil, entries)
}

// apply changes who is there, one diff to a topic, and returns the rooms to tell.
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

// isOwner reports whether an owner can be told from others.
func isOwner(by Owner) bool { return by != nil && reflect.ValueOf(by).Comparable() }

// owner is the record of an owner, or nil.
func (s *shard) owner(by Owner) *owner {
	if !isOwner(by) {
		return nil
	}
	return s.owners[by]
}

// register finds the record of an owner, or makes it and sees to it that its end is noticed.
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

// ended ends what an owner tracked, or lets it linger if it may come back.
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
	s.tell(rooms...)
}

// find is what o tracks under the key on the topic, or nil. An owner of many is not searched, but the metas of the key.
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

// read calls f with the room of a topic, if there is one.
func (s *shard) read(topic string, f func(*room)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms[topic]; r != nil {
		f(r)
	}
}

// all is what is on a topic, key by key.
func (s *shard) all(topic string) (all []*entry) {
	s.read(topic, func(r *room) { all = r.all() })
	return all
}

// isOnline reports which of the keys are on any topic.
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
