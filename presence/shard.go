package presence

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
)

// errChanged is returned by update if what is to be replaced is not the current one any more.
var errChanged = errors.New("changed meanwhile")

// shard is a part of the topics: who is there, and which owners track what. Its methods lock it. User code, broadcasts among it, is
// never called under the lock.
type shard struct {
	p   *Presence
	vsn uint64

	mu     sync.Mutex
	closed bool
	clock  uint64
	rooms  map[string]*room
	owners map[Owner]*owner
}

// owner is an Owner from when it first tracks until it ends.
type owner struct {
	entries []*entry
	ended   bool
}

func newShard(p *Presence) *shard {
	var random [8]byte
	rand.Read(random[:])
	return &shard{
		p: p, vsn: binary.BigEndian.Uint64(random[:]) & maxVsn,
		rooms: make(map[string]*room), owners: make(map[Owner]*owner),
	}
}

func (s *shard) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *shard) track(by Owner, topic, key, meta string) (string, error) {
	o := s.register(by)
	s.mu.Lock()
	if s.closed || o.ended {
		s.mu.Unlock()
		return "", ErrClosed
	}
	if o.find(topic, key) >= 0 {
		s.mu.Unlock()
		return "", ErrTracked
	}
	e := s.add(o, &entry{topic: topic, key: key, meta: meta})
	r := s.change(topic, []*entry{e}, nil)
	s.mu.Unlock()
	s.tell(r)
	return e.ref(), nil
}

// add makes e a presence of o's.
func (s *shard) add(o *owner, e *entry) *entry {
	s.clock++
	e.vsn, e.clock, e.owner = s.vsn, s.clock, o
	o.entries = append(o.entries, e)
	return e
}

func (s *shard) update(by Owner, topic, key, meta string, current *entry) (string, error) {
	s.mu.Lock()
	o := s.owners[by]
	i := o.find(topic, key)
	switch {
	case s.closed:
		s.mu.Unlock()
		return "", ErrClosed
	case i < 0:
		s.mu.Unlock()
		return "", ErrNotTracked
	case current != nil && current != o.entries[i]:
		s.mu.Unlock()
		return "", errChanged
	}
	old := s.drop(o, i)
	e := s.add(o, &entry{topic: topic, key: old.key, meta: meta, prev: old.clock})
	r := s.change(topic, []*entry{e}, []*entry{old})
	s.mu.Unlock()
	s.tell(r)
	return e.ref(), nil
}

// drop ends the presence at i of o's.
func (s *shard) drop(o *owner, i int) *entry {
	e := o.entries[i]
	s.clock++
	o.entries = slices.Delete(o.entries, i, i+1)
	return e
}

func (s *shard) untrack(by Owner, topic, key string) {
	s.mu.Lock()
	o := s.owners[by]
	i := o.find(topic, key)
	if s.closed || i < 0 {
		s.mu.Unlock()
		return
	}
	r := s.change(topic, nil, []*entry{s.drop(o, i)})
	s.mu.Unlock()
	s.tell(r)
}

func (s *shard) untrackAll(by Owner) {
	s.mu.Lock()
	rooms := s.dropAll(s.owners[by])
	s.mu.Unlock()
	s.tell(rooms...)
}

func (s *shard) dropAll(o *owner) []*room {
	if o == nil || s.closed {
		return nil
	}
	var leaves ordered[[]*entry] // by topic
	for _, e := range o.entries {
		at, _ := leaves.at(e.topic)
		*at = append(*at, e)
		s.clock++
	}
	o.entries = nil
	var rooms []*room
	for topic, left := range leaves.all() {
		rooms = append(rooms, s.change(topic, nil, *left))
	}
	return rooms
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

func (s *shard) ended(by Owner, o *owner) {
	s.mu.Lock()
	o.ended = true
	delete(s.owners, by)
	rooms := s.dropAll(o)
	s.mu.Unlock()
	s.tell(rooms...)
}

// find is where o tracks the key on the topic, or -1.
func (o *owner) find(topic, key string) int {
	if o == nil {
		return -1
	}
	return slices.IndexFunc(o.entries, func(e *entry) bool { return e.key == key && e.topic == topic })
}

func (s *shard) tracked(by Owner, topic, key string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.owners[by]
	if i := o.find(topic, key); i >= 0 {
		return o.entries[i]
	}
	return nil
}

func (s *shard) list(topic string) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms[topic]; r != nil {
		return r.public()
	}
	return State{}
}

func (s *shard) get(topic, key string) (state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms[topic]; r != nil {
		if m, ok := r.keys.get(key); ok {
			state.set(key, m.public())
		}
	}
	return state
}

func (s *shard) count(topic string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms[topic]; r != nil {
		return r.keys.len()
	}
	return 0
}

func (s *shard) appendState(dst []byte, topic string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[topic]
	if r == nil {
		r = &room{}
	}
	return r.appendState(dst)
}
