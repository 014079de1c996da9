package follow

import (
	"context"
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

// Topics are the topics in use, on one log. Its methods may be called from any goroutine.
type Topics[B any] struct {
	log   history.Local
	item  func(topic string, r *history.Record) B
	bytes atomic.Int64 // of all windows
	most  int64
	hand  atomic.Uint32 // the shard that was relieved last

	seed   maphash.Seed
	shards [shards]struct {
		mu sync.Mutex // a leaf, except that the log is called under it
		m  map[string]*Topic[B]
	}
}

// NewTopics returns an empty set of topics. The function item makes an item of a record that was
// read from the log. It is called under no lock.
func NewTopics[B any](log history.Local, item func(topic string, r *history.Record) B) *Topics[B] {
	s := &Topics[B]{log: log, item: item, most: MaxWindows, seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].m = make(map[string]*Topic[B])
	}
	return s
}

// Acquire returns a topic, which the caller must release. All users of a topic share it. The rule
// must be the same for all.
func (s *Topics[B]) Acquire(name string, k history.Keep) *Topic[B] {
	sh := &s.shards[maphash.String(s.seed, name)%shards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.m[name]
	if t == nil {
		t = &Topic[B]{all: s, name: name, keep: k}
		sh.m[name] = t
		s.log.Watch(name, func(error) {})
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
	t.drop()
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

// start reads the cursor of a topic. The caller must hold order.
func (t *Topic[B]) start(ctx context.Context) error {
	tops, err := t.all.log.Tops(ctx, []string{t.name})
	if err != nil {
		return err
	}
	t.reset(tops[0])
	return nil
}
