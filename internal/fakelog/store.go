package fakelog

import (
	"errors"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"bennu.example/history"
)

// Faults are what goes wrong on the way between a node and the store. The zero Faults is a
// connection that takes no time and loses nothing. Numbers without a unit are probabilities.
type Faults struct {
	Latency time.Duration // at most, of each way of a request
	Delay   time.Duration // at most, of the feed

	Lose   float64 // a fed record is lost
	Gap    float64 // a fed record is lost, and Inbox.Gap is called
	Repeat float64 // a fed record comes twice
	Swap   float64 // a fed record comes after some that were appended later

	NoAnswer float64 // the answer of an Append is lost, and possibly its request
	Refuse   float64 // a Watch fails at first: ready(err), then ready(nil)

	// These are not probabilities: the log always leaves out what an engine may not know.
	AppendHidesPrev bool // Append returns no Prev
	ReadHidesPrev   bool // Read and Before return no Prev
	FeedHidesTag    bool // the Prev of a fed record has no tag
}

// swapped is how much later than others a record comes that is repeated or swapped, at most.
const swapped = 50 * time.Millisecond

var (
	errCut     = errors.New("fakelog: the connection was cut")
	errRefused = errors.New("fakelog: the feed was refused")
	errLost    = errors.New("fakelog: a record of the feed was lost")
	errFull    = errors.New("fakelog: the queue of the feed was full")
)

// Store is the store of the logs of several nodes. Its methods may be called from any goroutine.
type Store struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	seed    uint64
	base    string // of the epochs
	epochs  int
	holes   bool
	data    *data
	nodes   map[string]*log
	frozen  bool
	ahead   time.Duration // of the store's clock
	late    []func()      // appends that arrive when the store is thawed
	changed chan struct{} // closed and replaced when a call that waits must look again
}

// NewStore returns an empty store.
func NewStore(seed uint64) *Store {
	s := &Store{
		rnd: rand.New(rand.NewPCG(seed, 0)), seed: seed, nodes: make(map[string]*log),
		changed: make(chan struct{}),
	}
	s.base = strconv.FormatUint(1<<40|s.rnd.Uint64N(1<<40), 36)
	s.data = newData(s.base)
	return s
}

// UseHoles leaves random holes between the offsets of the following records.
func (s *Store) UseHoles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holes = true
}

// Log returns a log for a node. A second log of the same node replaces the first in the methods of
// the Store, as the next process of a node does.
func (s *Store) Log(node string) history.Log {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // never fails
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &log{
		s: s, data: s.data, rnd: rand.New(rand.NewPCG(s.seed, h.Sum64())), watches: make(map[string]*watch),
		wake: make(chan struct{}, 1), since: time.Now(),
	}
	if old := s.nodes[node]; old != nil {
		l.faults, l.ahead = old.faults, old.ahead
	}
	s.nodes[node] = l
	return l
}

// Set sets the faults of nodes, which must have a Log. No names means all nodes.
func (s *Store) Set(f Faults, nodes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs(nodes) {
		l.faults = f
	}
}

// SetClock sets how far the wall clocks of nodes are ahead, or behind if it is negative. No names
// means the clock of the store, which is that of Record.Time. The store removes a record that has
// expired by its clock. A node does not return one that has expired by its own, as natsengine.
func (s *Store) SetClock(ahead time.Duration, nodes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(nodes) == 0 {
		s.ahead = ahead
		return
	}
	for _, l := range s.logs(nodes) {
		l.ahead = ahead
	}
}

// now returns the time of the store's clock. The caller must hold mu.
func (s *Store) now() time.Time { return wall(s.ahead) }

// wall returns the time of a wall clock that is ahead. Without a monotonic reading, its difference
// from other times is that of the wall clocks.
func wall(ahead time.Duration) time.Time { return time.Now().Round(0).Add(ahead) }

// logs returns the logs of nodes in the order of their names. No names means all.
func (s *Store) logs(nodes []string) []*log {
	if len(nodes) == 0 {
		nodes = slices.Sorted(maps.Keys(s.nodes))
	}
	all := make([]*log, len(nodes))
	for i, node := range nodes {
		all[i] = s.nodes[node]
	}
	return all
}

// change wakes the calls that wait. The caller must hold mu.
func (s *Store) change() {
	close(s.changed)
	s.changed = make(chan struct{})
	for _, l := range s.nodes {
		l.notify()
	}
}

// Freeze stops the store: it answers nothing and feeds nothing until Thaw.
func (s *Store) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
}

// Thaw ends Freeze. Some of the appends whose callers did not wait so long are stored now.
func (s *Store) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = false
	for _, f := range s.late {
		f()
	}
	s.late = nil
	s.change()
}

// Disconnect cuts the connections of nodes. Until Connect their calls wait, and the feed is lost.
// No names means all nodes.
func (s *Store) Disconnect(nodes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs(nodes) {
		l.disconnect()
	}
	s.change()
}

// Connect undoes Disconnect.
func (s *Store) Connect(nodes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs(nodes) {
		l.connect()
	}
	s.change()
}

// Rollback removes the newest n records of a topic, as a failover to a replica without them does,
// and returns them. Nobody is notified.
func (s *Store) Rollback(topic string, n int) (lost []history.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.data.topics[topic]; t != nil {
		lost = t.rollback(n)
	}
	return lost
}

// RollbackAll is Rollback of all topics.
func (s *Store) RollbackAll(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.data.topics {
		t.rollback(n)
	}
}

// Split gives nodes a primary of their own, which begins with a copy of the records. The nodes on
// different primaries feed each other nothing.
func (s *Store) Split(nodes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	other := s.data.clone()
	for _, l := range s.logs(nodes) {
		l.data = other
	}
}

// Heal undoes Split: the records that were appended to the other primaries are lost, and their
// nodes connect to the first one. Heal returns the lost records of a topic.
func (s *Store) Heal(topic string) (lost []history.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.data.topic(topic, s.now()).records
	for _, l := range s.logs(nil) {
		if l.data != s.data {
			for _, r := range l.data.topic(topic, s.now()).records {
				if !slices.ContainsFunc(kept, func(k history.Record) bool { return k.Position == r.Position }) {
					lost = append(lost, r)
				}
			}
			l.disconnect()
			l.data = s.data
			l.connect()
		}
	}
	s.change()
	return lost
}

// Evict removes a topic, so that its positions become invalid. Nobody is notified.
func (s *Store) Evict(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset(s.data, topic)
}

// reset gives a topic a new epoch without records.
func (s *Store) reset(d *data, name string) {
	s.epochs++
	d.topics[name] = newTopic(s.base + strconv.FormatInt(int64(s.epochs), 36))
}

// Trim removes the oldest records of a topic, so that n remain. The top stays.
func (s *Store) Trim(topic string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.data.topics[topic]; t != nil && n < len(t.records) {
		t.dropFirst(len(t.records) - n)
	}
}

// Topics returns the number of topics that the store knows.
func (s *Store) Topics() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.data.topics)
}
