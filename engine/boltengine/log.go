package boltengine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/history"
)

var (
	errRunTwice   = errors.New("boltengine: Run was called before")
	errNotRunning = errors.New("PubSub.Run does not run")
	errClosed     = errors.New("the engine is closed")
)

// log is the history.Log of an Engine.
//
// Append and Forget put an item into the queue. The goroutine of Run, the committer, takes up to
// maxBatch of them, applies them in one transaction, answers, and hands the batch to the feeder, a
// goroutine that Run starts and waits for. Readers use read transactions of their own.
type log struct {
	service
	clock clock
	queue *queue[*item]

	appended, failed, gaps atomic.Uint64

	// Guarded by mu.
	watches     map[string]*watch
	generations [slots]uint64 // of topics that the file does not know
}

// watch is a watched topic.
type watch struct {
	// generation is the topic's while the file does not know it. It does not change while the topic is
	// watched, so that its beginning stays valid.
	generation uint64
}

func newLog(s *store, logger *zerolog.Logger) *log {
	l := &log{
		clock: newClock(), queue: newQueue[*item](), watches: make(map[string]*watch), generations: s.generations,
	}
	l.init(s, logger, "history log", errNotRunning)
	return l
}

// clock measures time by the monotonic clock, from the wall clock's time at the start. A change of
// the wall clock does not expire records while the process runs.
type clock struct{ start time.Time }

func newClock() clock { return clock{time.Now()} }

// now returns the time of the wall clock, and the stamp in milliseconds.
func (c clock) now() (now time.Time, stamp int64) {
	now = time.Now()
	return now, c.start.UnixMilli() + now.Sub(c.start).Milliseconds()
}

var _ history.Local = (*log)(nil)

// Local is part of history.Local. The log waits for the disk.
func (l *log) Local() (instant bool) { return false }

// Health is part of history.Log.
func (l *log) Health() history.Health {
	l.mu.Lock()
	h := l.health
	l.mu.Unlock()
	h.Queued = int(l.queue.bytes.Load())
	h.Appended, h.Failed, h.Gaps = l.appended.Load(), l.failed.Load(), l.gaps.Load()
	return h
}

// Watch is part of history.Log.
func (l *log) Watch(topic string, ready func(error)) {
	l.mu.Lock()
	if l.watches[topic] == nil {
		l.watches[topic] = &watch{l.generations[slotOf(topic)]}
	}
	l.ready[topic] = ready
	l.mu.Unlock()
	l.signal()
}

// Unwatch is part of history.Log.
func (l *log) Unwatch(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watches, topic)
	delete(l.ready, topic)
}

func (l *log) watched(topic string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watches[topic] != nil
}

// generation returns the generation of a topic that the file does not know.
func (l *log) generation(topic string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.watches[topic]; w != nil {
		return w.generation
	}
	return l.generations[slotOf(topic)]
}

// retire makes the positions of a topic invalid, which is about to be removed. It reports false if
// the topic is watched and must stay.
//
// Only memory counts here. If the transaction fails, the topic stays, and nothing else is known to
// have had the new generation.
func (l *log) retire(topic string, generation uint64, used bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watches[topic] != nil {
		return false
	}
	g := &l.generations[slotOf(topic)]
	*g = max(*g, generation)
	if used {
		*g++
	}
	return true
}

func (l *log) slot(slot int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.generations[slot]
}

// close ends Run and closes the file.
func (l *log) close() error {
	if !l.end() {
		return nil
	}
	if err := l.store.close(); err != nil {
		return fmt.Errorf("boltengine: close %s: %w", l.store.path, err)
	}
	return nil
}

// unavailable returns the error of a method that could not use the file.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", history.ErrUnavailable, err)
}

// Forget is part of history.Log.
func (l *log) Forget(ctx context.Context, topic string) error {
	if len(topic) > maxTopic {
		return history.ErrTooLarge
	}
	_, err := l.do(ctx, &item{request: request{size: len(topic) + itemOverhead}, topic: topic, forget: true})
	return err
}
