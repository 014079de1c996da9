package boltengine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
	"bennu.example/state"
)

var errStateNotRunning = errors.New("Objects.Run does not run")

// objects is the state.Store of an Engine.
//
// Apply, Expire and Remove put a write into the queue. The goroutine of Run, the committer, takes
// up to maxBatch of them, performs them in one transaction, and hands the batch to the feeder, a
// goroutine that Run starts and waits for. The feeder feeds the changes in their order, and then
// answers. Readers use read transactions of their own.
type objects struct {
	service
	clock clock
	base  history.Position // of objects that do not exist
	queue *queue[*write]

	tombstoneAge time.Duration // how long a deletion is remembered
	maxObjects   int           // zero means no bound
	counted      int           // objects in the file; -1 if it is not known. Owned by the committer.

	applied, failed, gaps atomic.Uint64

	watches map[string]struct{} // guarded by mu
}

var _ state.Store = (*objects)(nil)

func newObjects(file *store, logger *zerolog.Logger, maxObjects int) *objects {
	s := &objects{
		clock: newClock(), queue: newQueue[*write](), tombstoneAge: tombstoneAge,
		maxObjects: maxObjects, counted: -1,
		base: positionOf(file.base, 0, beginning), watches: make(map[string]struct{}),
	}
	s.init(file, logger, "object store", errStateNotRunning)
	s.queue.setOpen(true) // writes wait for Run, which a program starts with its server
	return s
}

// write is an Apply, an Expire or a Remove in the queue.
type write struct {
	request
	kind   writeKind
	object string
	ops    []state.Op
	tx     state.Tx // its limits are filled in
	max    int      // of Expire

	// The committer sets these before it answers.
	out     state.Applied
	n       int // of Expire: the number of deletions
	err     error
	changes []state.Change // in their order
}

type writeKind uint8

const (
	writeApply writeKind = iota
	writeExpire
	writeRemove
)

// Apply is part of state.Store.
func (s *objects) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	w := &write{object: object, ops: ops, tx: tx}
	w.size = len(object) + len(tx.ID) + len(tx.Writer) + itemOverhead
	for i := range ops {
		w.size += len(ops[i].Key) + len(ops[i].Value) + itemOverhead
	}
	err := state.Check(ops, tx)
	if err == nil && len(object) > maxTopic {
		err = &state.LimitError{Err: state.ErrTooLarge, What: "topic", Max: maxTopic}
	}
	if err == nil {
		w.tx.Limits = tx.Limits.WithDefaults()
		err = s.do(ctx, w)
	}
	if err != nil {
		s.failed.Add(1)
		return state.Applied{}, err
	}
	s.applied.Add(1)
	return w.out, nil
}

// Expire is part of state.Store.
func (s *objects) Expire(ctx context.Context, limit int) (int, error) {
	due := false
	err := s.read(ctx, func(tx *bolt.Tx) error {
		r := readObjects(tx)
		due = r != nil && r.isDue(s.now())
		return nil
	})
	if err != nil || !due {
		return 0, err
	}
	w := &write{kind: writeExpire, max: min(limit, maxExpire), request: request{size: itemOverhead}}
	err = s.do(ctx, w)
	return w.n, err
}

// Remove is part of state.Store.
func (s *objects) Remove(ctx context.Context, object, id string) error {
	if len(object) > maxTopic {
		return state.ErrNotFound
	}
	return s.do(ctx, &write{
		kind: writeRemove, object: object, tx: state.Tx{ID: id},
		request: request{size: len(object) + len(id) + itemOverhead},
	})
}

// do puts a write into the queue and waits for its result.
func (s *objects) do(ctx context.Context, w *write) error {
	err := s.queue.do(ctx, w)
	switch {
	case errors.Is(err, history.ErrUncertain), errors.Is(err, history.ErrFull):
		return unavailable(err)
	case err != nil:
		return err
	}
	return w.err
}

// Watch is part of state.Store.
func (s *objects) Watch(object string, ready func(error)) {
	s.mu.Lock()
	s.watches[object] = struct{}{}
	s.ready[object] = ready
	s.mu.Unlock()
	s.signal()
}

// Unwatch is part of state.Store.
func (s *objects) Unwatch(object string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, object)
	delete(s.ready, object)
}

func (s *objects) watched(object string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.watches[object]
	return ok
}

// Health is part of state.Store.
func (s *objects) Health() history.Health {
	s.mu.Lock()
	h := s.health
	s.mu.Unlock()
	h.Queued = int(s.queue.bytes.Load())
	h.Appended, h.Failed, h.Gaps = s.applied.Load(), s.failed.Load(), s.gaps.Load()
	return h
}

// objectsRun is the state of the goroutine of Run.
type objectsRun struct {
	*objects
	batches chan<- fedWrites
	timer   *time.Timer // of the next sweep
}

// fedWrites is a batch for the feeder. The gap is the reason why changes may be missing after it.
type fedWrites struct {
	writes []*write
	gap    error
}

// Run is part of state.Store. Its goroutine is the committer.
func (s *objects) Run(ctx context.Context, in state.Inbox) error {
	if err := s.start(); err != nil {
		return err
	}
	defer close(s.ended)
	batches := make(chan fedWrites, 1)
	var feeder sync.WaitGroup
	feeder.Go(func() { s.feed(in, batches) })
	c := &objectsRun{objects: s, batches: batches, timer: time.NewTimer(0)}
	defer c.timer.Stop()
	s.setHealth(nil)
	s.queue.work(ctx, s.closing, c.round, c.timer.C, c.sweep)
	close(batches)
	feeder.Wait()
	s.setHealth(errStateNotRunning)
	return nil
}

// round commits the write and others that wait, and hands them to the feeder.
func (c *objectsRun) round(first *write) {
	batch := c.queue.gather(first)
	if len(batch) == 0 {
		return
	}
	begun := time.Now()
	removed, failure := c.commit(batch)
	c.queue.committed(batch, begun)
	c.report(failure)
	f := fedWrites{writes: batch}
	if errors.Is(failure, errUncertain) {
		f.gap = failure
	}
	c.batches <- f
	switch {
	case failure != nil:
		c.timer.Reset(retryAfter)
	case removed:
		c.timer.Reset(sweepPause)
	}
}

// commit performs a batch and sets the results. If the file is damaged where one write needs it,
// the others are performed without it. It reports whether an object was removed.
func (c *objectsRun) commit(batch []*write) (removed bool, failure error) {
	count := c.counted
	failure = c.store.update(func(tx *bolt.Tx) error {
		x, err := c.begin(tx)
		if err != nil {
			return err
		}
		for _, w := range batch {
			w.out, w.n, w.err, w.changes = state.Applied{}, 0, nil, nil
			if err := x.perform(w); err != nil {
				return err
			}
		}
		removed, count = x.removedAny, x.count
		return x.flush()
	})
	switch {
	case failure == nil:
		c.counted = count
	case errors.Is(failure, errUncertain):
		c.counted = -1
	}
	if errors.Is(failure, errDamaged) && !errors.Is(failure, errUncertain) && len(batch) > 1 {
		removed, failure = false, nil
		for i := range batch {
			r, err := c.commit(batch[i : i+1])
			removed = removed || r
			if err != nil {
				failure = err
			}
		}
		return removed, failure
	}
	if failure != nil {
		for _, w := range batch {
			w.err, w.changes = unavailable(failure), nil
		}
	}
	return removed, failure
}

// sweep deletes what is left of removed objects. After a failure it also finds out whether the file
// works again.
func (c *objectsRun) sweep() {
	more, waits := false, false
	err := c.store.view(func(tx *bolt.Tx) error {
		waits = hasRemoved(tx)
		return nil
	})
	if err == nil && !waits && c.Health().Err == nil {
		return // a transaction without changes would sync as well
	}
	err = c.store.update(func(tx *bolt.Tx) error {
		x, err := c.begin(tx)
		if err == nil {
			more, err = x.sweep()
		}
		return err
	})
	c.report(err)
	switch {
	case err != nil:
		c.timer.Reset(retryAfter)
	case more:
		c.timer.Reset(sweepPause)
	}
}

// feed is the feeder. It feeds the changes in the order of the file, until batches is closed.
func (s *objects) feed(in state.Inbox, batches <-chan fedWrites) {
	for {
		select {
		case f, ok := <-batches:
			if !ok {
				return
			}
			for _, w := range f.writes {
				for _, c := range w.changes {
					if s.watched(c.Object) {
						in.Change(c)
					}
				}
				s.queue.answer(w)
			}
			if f.gap != nil {
				s.gaps.Add(1)
				in.Uncertain(f.gap)
			}
		case <-s.wake:
			s.callReady()
		}
	}
}

// close ends Run, if it runs.
func (s *objects) close() {
	if s.end() {
		s.queue.setOpen(false) // it was open before Run, too
	}
}
