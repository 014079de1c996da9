package fakelog

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"bennu.example/history"
)

// maxQueue bounds the feed that waits for a node, in bytes.
const maxQueue = 16 << 20

// overhead is the memory of an item without its payload, about.
const overhead = 300

// watch is a watched topic of a node. It is fed since its last ready(nil).
type watch struct {
	ready func(error)
	fed   bool
}

// item is something that Run does. Exactly one of the fields after due is set, except that watch
// may come with err.
type item struct {
	due       time.Time
	record    *history.Record
	forgotten bool
	gap       error
	watch     *watch
	err       error // of ready

	topic string
}

func (it *item) size() int {
	if it.record == nil {
		return overhead
	}
	return overhead + size(*it.record)
}

// Watch is part of history.Log.
func (l *log) Watch(topic string, ready func(error)) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	w := &watch{ready: ready}
	l.watches[topic] = w
	if l.connected {
		l.begin(topic, w)
	}
}

// Unwatch is part of history.Log.
func (l *log) Unwatch(topic string) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	delete(l.watches, topic)
}

// begin starts the feed of a topic. The caller must hold mu.
func (l *log) begin(topic string, w *watch) {
	if l.chance(l.faults.Refuse) {
		l.enqueue(item{topic: topic, watch: w, err: errRefused})
	}
	l.enqueue(item{topic: topic, watch: w})
}

// disconnect ends the connection. Either every watched topic gets ready(err) now, or there is a Gap
// after the next ready(nil). The caller must hold mu.
func (l *log) disconnect() {
	if !l.connected {
		return
	}
	l.connected, l.since = false, time.Now()
	l.cuts++
	l.queue, l.bytes, l.last = nil, 0, time.Time{}
	l.owes = l.chance(0.5)
	for _, topic := range slices.Sorted(maps.Keys(l.watches)) {
		w := l.watches[topic]
		w.fed = false
		if !l.owes {
			l.enqueue(item{topic: topic, watch: w, err: errCut})
		}
	}
}

// connect begins a connection, if Run is running. The caller must hold mu.
func (l *log) connect() {
	if l.connected || !l.running {
		return
	}
	l.connected, l.since = true, time.Now()
	for _, topic := range slices.Sorted(maps.Keys(l.watches)) {
		l.begin(topic, l.watches[topic])
	}
	if l.owes {
		l.owes = false
		l.enqueue(item{gap: errCut})
	}
}

// feed feeds a record with the faults of the node. The caller must hold mu.
func (l *log) feed(topic string, r history.Record) {
	if w := l.watches[topic]; w == nil || !w.fed {
		return
	}
	f := &l.faults
	if f.FeedHidesTag {
		r.Prev = position(r.Prev.Epoch(), r.Prev.Offset(), "")
	}
	it := item{topic: topic, record: &r}
	switch {
	case l.chance(f.Lose):
	case l.chance(f.Gap):
		l.enqueue(item{gap: errLost})
	case l.chance(f.Swap):
		l.enqueueLate(it)
	case l.chance(f.Repeat):
		l.enqueueLate(it)
		fallthrough
	default:
		l.enqueue(it)
	}
}

func (l *log) feedForgotten(topic string) {
	if w := l.watches[topic]; w != nil && w.fed {
		l.enqueue(item{topic: topic, forgotten: true})
	}
}

// enqueue adds an item behind those that were added before. The caller must hold mu.
func (l *log) enqueue(it item) {
	it.due = time.Now().Add(l.upTo(l.faults.Delay))
	if it.due.Before(l.last) {
		it.due = l.last
	}
	l.last = it.due
	l.insert(it)
}

// enqueueLate adds an item that others may overtake. The caller must hold mu.
func (l *log) enqueueLate(it item) {
	it.due = time.Now().Add(l.upTo(l.faults.Delay) + 1 + l.upTo(swapped))
	l.insert(it)
}

func (l *log) insert(it item) {
	if l.bytes += it.size(); l.bytes > maxQueue {
		l.queue = slices.DeleteFunc(l.queue, func(it item) bool { return it.watch == nil })
		it = item{due: it.due, gap: errFull}
		l.bytes = it.size()
		for i := range l.queue {
			l.bytes += l.queue[i].size()
		}
	}
	i, _ := slices.BinarySearchFunc(l.queue, it.due, func(queued item, due time.Time) int {
		if queued.due.After(due) {
			return 1
		}
		return -1
	})
	l.queue = slices.Insert(l.queue, i, it)
	l.notify()
}

// notify lets Run look at the queue.
func (l *log) notify() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look
	}
}

// Run is part of history.Log.
func (l *log) Run(ctx context.Context, in history.Inbox) error {
	l.s.mu.Lock()
	if l.ran {
		l.s.mu.Unlock()
		return errors.New("fakelog: Run was called twice")
	}
	l.ran, l.running, l.inbox = true, true, in
	l.connect()
	l.s.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		wait, do := l.next()
		if do != nil {
			do()
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-l.wake:
		}
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.disconnect()
	l.running, l.queue = false, nil
	l.s.change()
	return nil
}

// next takes the next item from the queue and returns what must be done, or how long there is
// nothing to do.
func (l *log) next() (wait time.Duration, do func()) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if len(l.queue) == 0 {
		return time.Hour, nil
	}
	it := l.queue[0]
	if wait := time.Until(it.due); wait > 0 {
		return wait, nil
	}
	if l.s.frozen && it.err == nil {
		return time.Hour, nil // Thaw wakes it
	}
	l.queue = slices.Delete(l.queue, 0, 1)
	l.bytes -= it.size()
	switch {
	case it.gap != nil:
		l.gaps++
		return 0, func() { l.inbox.Gap(it.gap) }
	case l.watches[it.topic] == nil, it.watch != nil && l.watches[it.topic] != it.watch:
		return 0, func() {} // it was unwatched meanwhile
	case it.watch != nil:
		it.watch.fed = it.err == nil
		return 0, func() { it.watch.ready(it.err) }
	case it.forgotten:
		return 0, func() { l.inbox.Forgotten(it.topic) }
	}
	return 0, func() { l.inbox.Record(it.topic, *it.record) }
}
