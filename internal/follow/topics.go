package follow

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"bennu.example/history"
)

// shards is the number of locks for the map of topics.
const shards = 64

// MaxWindows bounds the windows of all topics, in bytes. Beyond it, a topic keeps only what its
// readers hold.
const MaxWindows = 32 << 20

// Hooks connect the topics to their subscribers. All must be set.
type Hooks[B any] struct {
	// Item makes an item of a record that was read for one reader. It is called under no lock.
	Item func(topic string, r *history.Record) B
	// Delivery prepares the delivery of a record that was fed or read from the log. It is called under
	// no lock.
	Delivery func(topic string, r *history.Record) Delivery[B]
	// Lost is called under order if the log was forgotten, or has lost records that were delivered. It
	// must notify the subscribers that have a Reader.
	Lost func(topic *Topic[B])
}

// Delivery is a record, or a message between records, on its way to the subscribers of a topic.
type Delivery[B any] interface {
	// Item sets the record as it is in the log, and returns the item. It is called under order.
	Item(r *history.Record) B
	// Deliver delivers to the subscribers that are live. It is called under order.
	Deliver(topic *Topic[B])
	// Done is called after Deliver, under no lock. It is not called if the record was delivered before
	// by another Delivery.
	Done()
}

// Topics are the topics in use, on one log. Its methods may be called from any goroutine.
type Topics[B any] struct {
	log     history.Log
	instant bool // the log answers without waiting, and feeds nothing
	hooks   Hooks[B]
	bytes   atomic.Int64 // of all windows
	most    int64
	hand    atomic.Uint32 // the shard that was relieved last

	// Of a log that is not instant.
	running atomic.Bool
	repairs agenda[B] // when topics are to be repaired
	surveys agenda[B] // when the tops of topics are to be compared with the log
	recent  recent

	seed   maphash.Seed
	shards [shards]struct {
		mu sync.Mutex // a leaf, except that the log is called under it
		m  map[string]*Topic[B]
	}
}

// NewTopics returns an empty set of topics.
func NewTopics[B any](log history.Log, hooks Hooks[B]) *Topics[B] {
	s := &Topics[B]{log: log, hooks: hooks, most: MaxWindows, seed: maphash.MakeSeed()}
	if local, ok := log.(history.Local); ok {
		s.instant = local.Local()
	}
	s.repairs.init(repairJob)
	s.surveys.init(surveyJob)
	for i := range s.shards {
		s.shards[i].m = make(map[string]*Topic[B])
	}
	return s
}

// Instant reports whether the log is instant, so that Run need not be called.
func (s *Topics[B]) Instant() bool { return s.instant }

// Acquire returns a topic, which the caller must release. All users of a topic share it. The rule
// must be the same for all.
func (s *Topics[B]) Acquire(name string, k history.Keep) *Topic[B] {
	sh := &s.shards[maphash.String(s.seed, name)%shards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.m[name]
	if t == nil {
		t = &Topic[B]{all: s, name: name, keep: k}
		t.jobs[repairJob].index, t.jobs[surveyJob].index = -1, -1
		sh.m[name] = t
		s.log.Watch(name, t.ready)
	}
	t.users++
	return t
}

// Find returns a topic that is in use, and which the caller must release, or nil.
func (s *Topics[B]) Find(name string) *Topic[B] {
	sh := &s.shards[maphash.String(s.seed, name)%shards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.m[name]
	if t != nil {
		t.users++
	}
	return t
}

// Release ends one use of the topic. The caller must hold no lock of the topic.
func (t *Topic[B]) Release() {
	sh := &t.all.shards[maphash.String(t.all.seed, t.name)%shards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t.users--; t.users > 0 {
		return
	}
	delete(sh.m, t.name)
	t.all.log.Unwatch(t.name)
	t.order.Lock()
	defer t.order.Unlock()
	t.end()
}

// each calls f for all topics in use. It calls it under a shard's lock.
func (s *Topics[B]) each(f func(t *Topic[B])) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, t := range sh.m {
			f(t)
		}
		sh.mu.Unlock()
	}
}

// full reports whether the windows are over their bound.
func (s *Topics[B]) full() bool { return s.bytes.Load() > s.most }

// relieve drops the windows of a few topics that are not held. The caller must hold no lock.
func (s *Topics[B]) relieve() {
	const tries = 8
	left := tries
	for range s.shards {
		if !s.full() || left == 0 {
			return
		}
		sh := &s.shards[s.hand.Add(1)%shards]
		sh.mu.Lock()
		for _, t := range sh.m { // the order is random
			if left--; t.order.TryLock() {
				t.trim(true)
				t.order.Unlock()
			}
			if left == 0 {
				break
			}
		}
		sh.mu.Unlock()
	}
}
