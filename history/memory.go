package history

import (
	"context"
	"crypto/rand"
	"math"
	"strconv"
	"sync"
	"time"
)

const (
	defaultMaxBytes  = 64 << 20
	defaultMaxTopics = 100_000
	// onceFor is how long an ID is recognised.
	onceFor = 2 * time.Minute
	// sweepEvery is the shortest time between two sweeps for expired records, and sweepMax bounds the
	// records that one sweep removes. Readers never see an expired record, whether it was swept or
	// not.
	sweepEvery = time.Second
	sweepMax   = 4096
)

// maxTexts bounds the event and the client id of a record, and maxHeader what else is stored of it
// in addition to the payload.
const (
	maxTexts  = 32 << 10
	maxHeader = 1 << 10
)

// MemoryConfig bounds a Memory. The zero value is useful.
type MemoryConfig struct {
	// MaxBytes bounds the memory of all records. Beyond it, the records of the topic that was silent
	// for the longest time are removed. Zero means 64 MiB.
	MaxBytes int
	// MaxTopics bounds the topics that have no subscriber. Beyond it, the one that was silent for the
	// longest time is forgotten, so that its positions become invalid. Zero means 100,000.
	MaxTopics int
	// Now returns the time of the wall clock, which is the Time of the records. It must not wait. Ages
	// are measured by the monotonic clock of this process, whatever Now returns. Nil means time.Now.
	Now func() time.Time
}

// Memory is a Log in the memory of this process. It answers without waiting, and its contents end
// with the process. One PubSub may use it. It needs no Close.
type Memory struct {
	cfg   MemoryConfig
	start time.Time // ages are measured from it by the monotonic clock
	base  string    // of the epochs
	// maxRecord bounds the payload and the texts of a record.
	maxRecord int

	mu      sync.Mutex
	topics  map[string]*memoryTopic
	expiry  topicHeap
	silence topicHeap
	idle    topicHeap
	uses    int64       // appends, and calls of Unwatch
	bytes   int         // of all chunks
	spare   [][]byte    // unused buffers of chunks
	spared  int         // their bytes
	evicted uint64      // topics that were forgotten
	epoch   string      // of topics that are not in the map
	timer   *time.Timer // sweeps; nil before the first record
	sweepAt int64       // the age at which the timer fires; zero if it does not
	swept   int64       // the age of the last sweep
	drift   int64       // what the wall clock advanced more than the monotonic one, in milliseconds
	wallAt  int64       // the age at which drift is measured again
	tags    tagSource
	stored  uint64
	failed  uint64
}

var _ Local = (*Memory)(nil)

// NewMemory returns an empty log.
func NewMemory(cfg MemoryConfig) *Memory {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	if cfg.MaxTopics <= 0 {
		cfg.MaxTopics = defaultMaxTopics
	}
	m := &Memory{
		cfg: cfg, start: time.Now(), topics: make(map[string]*memoryTopic),
		maxRecord: min(cfg.MaxBytes, math.MaxInt32) - maxHeader, // sizes are stored with 32 bits
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	for i, b := range random {
		random[i] = tagAlphabet[b&31]
	}
	m.base = string(random[:])
	m.epoch = m.base
	m.expiry.which, m.silence.which, m.idle.which = heapExpiry, heapSilence, heapIdle
	return m
}

// Local is part of Local. A Memory is instant.
func (m *Memory) Local() (instant bool) { return true }

// now returns the time since the start in milliseconds.
func (m *Memory) now() (age int64) {
	return int64(time.Since(m.start) / time.Millisecond)
}

// wallEvery is how often the wall clock is read, in milliseconds. In between, its time follows from
// the monotonic clock, because reading both takes twice as long.
const wallEvery = 10

// wall returns the time of the wall clock at an age, in milliseconds, and sets drift. read is what
// MemoryConfig.Now has returned, if there is one. The caller must hold mu.
func (m *Memory) wall(age int64, read time.Time) int64 {
	start := m.start.UnixMilli()
	if m.cfg.Now != nil {
		m.drift = read.UnixMilli() - start - age
	} else if age >= m.wallAt {
		m.drift = time.Now().UnixMilli() - start - age
		m.wallAt = age + wallEvery
	}
	return start + age + m.drift
}

// Append is part of Log.
func (m *Memory) Append(_ context.Context, topic string, r Record, k Keep) (stored Record, err error) {
	k.fill()
	body, err := makeStorable(&r.Payload)
	texts := len(r.Event) + len(r.From)
	if err == nil && (len(body) > k.Bytes || len(body)+texts > m.maxRecord ||
		texts > maxTexts || len(r.ID) > maxID || len(r.Origin) > maxOrigin) {
		err = ErrTooLarge
	}
	var read time.Time
	if m.cfg.Now != nil {
		read = m.cfg.Now()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	if err == nil && t != nil && t.top.offset >= maxOffset {
		err = ErrFull
	}
	if err != nil {
		m.failed++
		return Record{}, err
	}
	if t == nil {
		t = m.add(topic)
		m.idle.set(t, m.uses)
	}
	age := m.now()
	t.keepFor = k.Age.Milliseconds()
	t.trim(m, age, math.MaxInt)
	if r.ID != "" {
		if first, ok := t.find(m, r.ID, age-onceFor.Milliseconds()); ok {
			return first, nil
		}
	}
	// Records and positions are copied once and written by field, since a processor waits if it copies
	// what was just written in smaller pieces.
	stored = r
	stored.Prev = t.top
	t.top.offset++
	t.top.tag = m.tags.next()
	stored.Position.epoch, stored.Position.offset, stored.Position.tag = t.top.epoch, t.top.offset, t.top.tag
	stored.Time = time.UnixMilli(m.wall(age, read))
	m.stored++
	m.uses++
	t.used = m.uses
	if t.count == 0 {
		m.silence.set(t, t.used)
		m.schedule(t, age, age+t.keepFor)
	} else if due := age + t.keepFor; due < t.due() { // Age is shorter than before
		m.schedule(t, age, t.expires())
	}
	t.add(m, &stored, body, age)
	t.bound(m, &k)
	m.boundBytes(t)
	m.boundTopics()
	return stored, nil
}

// add adds a topic, which is in no list yet.
func (m *Memory) add(topic string) *memoryTopic {
	t := &memoryTopic{name: topic, top: Position{m.epoch, 0, beginningTag}, oldest: -1}
	t.before = t.top.tag
	m.topics[topic] = t
	return t
}

// boundBytes removes what exceeds MaxBytes. The newest chunk of t stays.
func (m *Memory) boundBytes(t *memoryTopic) {
	for m.bytes > m.cfg.MaxBytes {
		victim := m.silence.first((*memoryTopic).lastUse)
		if victim == t && len(t.older) == 0 {
			return
		}
		victim.dropOldest(m)
	}
}

// boundTopics removes what exceeds MaxTopics.
func (m *Memory) boundTopics() {
	for len(m.idle.topics) > m.cfg.MaxTopics {
		m.forget(m.idle.first((*memoryTopic).lastUse))
	}
}

// forget removes a topic and its top, so that its positions become invalid.
func (m *Memory) forget(t *memoryTopic) {
	t.clear(m)
	m.idle.remove(t)
	delete(m.topics, t.name)
	m.evicted++
	m.epoch = m.base + strconv.FormatUint(m.evicted, 36)
}

// Tops is part of Log.
func (m *Memory) Tops(_ context.Context, topics []string) ([]Position, error) {
	tops := make([]Position, len(topics))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, topic := range topics {
		tops[i] = m.top(m.topics[topic])
	}
	return tops, nil
}

func (m *Memory) top(t *memoryTopic) Position {
	if t == nil {
		return Position{m.epoch, 0, beginningTag}
	}
	return t.top
}

// Watch is part of Log. A watched topic keeps its top. Since a Memory is instant, ready is not
// called.
func (m *Memory) Watch(topic string, _ func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	if t == nil {
		t = m.add(topic)
	}
	t.watchers++
	m.idle.remove(t)
}

// Unwatch is part of Log.
func (m *Memory) Unwatch(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	if t == nil || t.watchers == 0 {
		return
	}
	if t.watchers--; t.watchers > 0 {
		return
	}
	if t.top.IsBeginning() { // it never had a record
		delete(m.topics, topic)
		return
	}
	m.uses++
	t.used = m.uses
	m.idle.set(t, t.used)
	m.boundTopics()
}

// Run is part of Log. A Memory feeds nothing: Run waits until ctx ends.
func (m *Memory) Run(ctx context.Context, _ Inbox) error {
	<-ctx.Done()
	return nil
}

// Forget is part of Log.
func (m *Memory) Forget(_ context.Context, topic string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	if t == nil {
		// A position of a topic that is not known is a beginning, which is forgotten, too.
		t = m.add(topic)
	}
	watchers := t.watchers
	m.forget(t)
	if watchers > 0 {
		m.add(topic).watchers = watchers
	}
	return nil
}

// Health is part of Log.
func (m *Memory) Health() Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Health{Connected: true, Since: m.start, Appended: m.stored, Failed: m.failed}
}
