package socket

import (
	"container/heap"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/willtimes"
	"bennu.example/key"
	"bennu.example/serializer"
	"bennu.example/will"
)

const (
	// willTimeout bounds a call of the store.
	willTimeout = 5 * time.Second
	// willBatch is the number of wills that are claimed at once, and of changes made at once.
	willBatch = 64
	// willEnd bounds the time in which the last changes are stored when the handler ends.
	willEnd = 5 * time.Second
)

// memberID is the member of a will's payload with its ID.
const memberID = "$id"

// wills runs the last wills of a handler, and with a shared store those of other nodes. One
// goroutine calls the store, except for changes that a client waits for.
type wills struct {
	h     *Handler
	store will.Store
	times willtimes.Times
	isOwn bool   // the store is this handler's alone
	node  string // the name of this handler's lease

	mu      sync.Mutex
	count   int // wills that are set or that end
	changes []willChange
	due     dueHeap
	leased  time.Time // when the last lease that was granted was requested
	again   bool      // the wills of all sessions must be stored again
	running bool
	stopped bool

	wake chan struct{} // has room for one signal
	done chan struct{} // closed when the goroutine has ended

	// Owned by the goroutine.
	ran     map[string]struct{} // broadcast, but not deleted yet
	isDue   bool                // wills are to be claimed
	polling time.Time           // when they are to be claimed in any case; zero means never
	paused  time.Time           // nothing is done before, because something failed
}

// willChange is the end of a will, or its deletion.
type willChange struct {
	will.Will

	ends bool
	ran  bool // it was broadcast
}

func (w *wills) begin(h *Handler) {
	w.h, w.store, w.node = h, h.cfg.Wills, key.New()
	w.wake, w.done = make(chan struct{}, 1), make(chan struct{})
	w.ran = make(map[string]struct{})
	if w.store == nil {
		w.store, w.isOwn, w.times = will.NewMemory(), true, willtimes.Default()
		return
	}
	w.times = willtimes.Of(w.store)
	w.polling = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start()
}

// start starts the goroutine. The caller holds mu.
func (w *wills) start() {
	if !w.running && !w.stopped {
		w.running = true
		go w.run()
	}
}

// reserve counts a will of this node. It reports false if there are too many.
func (w *wills) reserve() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count >= maxNodeWills {
		return false
	}
	w.count++
	return true
}

func (w *wills) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count--
}

// end makes a will due after its time.
func (w *wills) end(x will.Will) { w.change(willChange{Will: x, ends: true}) }

// delete removes a will from the store, now or later.
func (w *wills) delete(x will.Will) { w.change(willChange{Will: x}) }

func (w *wills) change(c willChange) {
	w.mu.Lock()
	w.changes = append(w.changes, c) // at most maxNodeWills
	w.start()
	w.mu.Unlock()
	w.signal()
}

func (w *wills) signal() {
	select {
	case w.wake <- struct{}{}:
	default: // it will look
	}
}

// deleteNow removes a will, and counts it out.
func (w *wills) deleteNow(ctx context.Context, x will.Will) error {
	ctx, cancel := context.WithTimeout(ctx, willTimeout)
	defer cancel()
	err := w.store.Delete(ctx, x.Topic, x.Connection, x.ID)
	if err != nil {
		w.delete(x)
		return err
	}
	w.release()
	return nil
}

// put stores a will.
func (w *wills) put(ctx context.Context, x will.Will) error {
	ctx, cancel := context.WithTimeout(ctx, willTimeout)
	defer cancel()
	if err := w.ready(ctx); err != nil {
		return err
	}
	return w.store.Put(ctx, x)
}

// arrive waits until no older connection's will runs on the topic.
func (w *wills) arrive(ctx context.Context, topic string, c will.Connection) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, willTimeout)
		busy, err := w.store.Arrive(one, topic, c)
		cancel()
		if err != nil || busy <= 0 {
			return err
		}
		pause.Reset(min(busy, arrivePause))
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ready makes sure that this node has a lease.
func (w *wills) ready(ctx context.Context) error {
	if w.isOwn || w.hasLease(w.times.Stop) {
		return nil
	}
	return w.lease(ctx)
}

// hasLease reports whether a lease was granted that was requested within the last d.
func (w *wills) hasLease(d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.leased.IsZero() && time.Since(w.leased) < d
}

func (w *wills) lease(ctx context.Context) error {
	requested := time.Now()
	kept, err := w.store.Lease(ctx, w.node, w.times.Lease)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.again = w.again || !kept && !w.leased.IsZero()
	w.leased = requested
	return nil
}

// renew renews the lease if it is time. Whatever takes long calls it now and then.
func (w *wills) renew(ctx context.Context) error {
	if w.isOwn || w.hasLease(w.times.Renew) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, willTimeout)
	defer cancel()
	return w.lease(ctx)
}

// stop ends the goroutine, after the last changes. All sessions have ended.
func (w *wills) stop() {
	w.mu.Lock()
	running := w.running
	w.stopped = true
	w.mu.Unlock()
	if running {
		w.signal()
		<-w.done
	}
}

func (w *wills) logUnavailable(err error) {
	const unavailable = "store of last wills failed"
	withError(w.h.logRarely(zerolog.WarnLevel, unavailable), err).Msg(unavailable)
}

// run is the goroutine.
func (w *wills) run() {
	defer close(w.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ctx := context.Background()
		if w.isStopped() {
			w.last(ctx)
			return
		}
		if !time.Now().Before(w.paused) {
			if err := w.work(ctx); err != nil {
				w.logUnavailable(err)
				w.paused = time.Now().Add(w.times.Retry)
			}
		}
		timer.Reset(w.idle())
		select {
		case <-timer.C:
		case <-w.wake:
		}
	}
}

func (w *wills) isStopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}

// work does what is due.
func (w *wills) work(ctx context.Context) error {
	if err := w.renew(ctx); err != nil {
		return err
	}
	if err := w.storeAgain(ctx); err != nil {
		return err
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	if w.takeDue() {
		w.isDue = true
	}
	var pollErr error
	if !w.polling.IsZero() && !time.Now().Before(w.polling) {
		pollErr = w.poll(ctx)
		w.isDue = true // also after an error: a dead node may have more wills than one poll finds
	}
	if !w.isDue {
		return pollErr
	}
	return errors.Join(pollErr, w.claim(ctx))
}

// poll finds the wills of other nodes.
func (w *wills) poll(ctx context.Context) error {
	if w.isOwn {
		w.polling = time.Time{}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, willTimeout)
	defer cancel()
	if err := w.store.Expire(ctx); err != nil {
		return err
	}
	w.polling = time.Now().Add(w.times.Poll/2 + rand.N(w.times.Poll))
	return nil
}

// idle returns the time until there is something to do.
func (w *wills) idle() time.Duration {
	now := time.Now()
	wait := time.Duration(1<<63 - 1)
	w.mu.Lock()
	if !w.isOwn {
		wait = w.leased.Add(w.times.Renew).Sub(now)
	}
	if !w.polling.IsZero() {
		wait = min(wait, w.polling.Sub(now))
	}
	if len(w.due) > 0 {
		wait = min(wait, w.due[0].Sub(now))
	}
	if len(w.changes) > 0 || w.again || w.isDue {
		wait = 0
	}
	w.mu.Unlock()
	return max(wait, w.paused.Sub(now), 0)
}

func (w *wills) mustStoreAgain() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.again
}

// storeAgain stores the wills of the sessions again after the lease was lost, because other nodes
// may have run them.
func (w *wills) storeAgain(ctx context.Context) error {
	if !w.mustStoreAgain() {
		return nil
	}
	w.mu.Lock()
	w.again = false
	w.mu.Unlock()
	type own struct {
		s *session
		w *sessionWill
		will.Will
	}
	var all []own
	w.h.mu.Lock()
	sessions := slices.Collect(maps.Keys(w.h.sessions))
	w.h.mu.Unlock()
	for _, s := range sessions {
		s.mu.Lock()
		for _, x := range s.willList() {
			if x.isSet {
				all = append(all, own{s, x, x.Will})
			}
		}
		s.mu.Unlock()
	}
	for batch := range slices.Chunk(all, willBatch) {
		err := w.renew(ctx)
		if err == nil {
			err = errors.Join(w.each(len(batch), func(i int) error {
				x := batch[i]
				one, cancel := context.WithTimeout(ctx, willTimeout)
				defer cancel()
				err := w.store.Put(one, x.Will)
				x.s.mu.Lock()
				unwilled := x.w.unwilled
				x.s.mu.Unlock()
				if unwilled { // perhaps before Put
					err = w.store.Delete(one, x.Topic, x.Connection, x.ID)
				}
				if errors.Is(err, will.ErrFenced) {
					return nil
				}
				return err
			})...)
		}
		if err != nil {
			w.mu.Lock()
			w.again = true // also if a will is being run
			w.mu.Unlock()
			return err
		}
	}
	return nil
}

// flush makes the changes. Those that fail stay.
func (w *wills) flush(ctx context.Context) error {
	for {
		w.mu.Lock()
		n := min(len(w.changes), willBatch)
		batch := w.changes[:n:n]
		if w.changes = w.changes[n:]; len(w.changes) == 0 {
			w.changes = nil
		}
		w.mu.Unlock()
		if n == 0 {
			return nil
		}
		one, cancel := context.WithTimeout(ctx, willTimeout)
		err := errors.Join(w.make(one, batch), w.renew(ctx))
		cancel()
		if err != nil {
			return err
		}
	}
}

// willsAtOnce is the number of changes under way.
const willsAtOnce = 8

// make makes some changes.
func (w *wills) make(ctx context.Context, batch []willChange) error {
	errs := w.each(len(batch), func(i int) error {
		c := &batch[i]
		if c.ends {
			return w.store.End(ctx, c.Topic, c.Connection, c.ID)
		}
		return w.store.Delete(ctx, c.Topic, c.Connection, c.ID)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, err := range errs {
		switch c := batch[n]; {
		case err != nil:
			w.changes = append(w.changes, c)
		case c.ends:
			heap.Push(&w.due, time.Now().Add(c.After))
		case c.ran:
			delete(w.ran, c.ID)
		default:
			w.count--
		}
	}
	return errors.Join(errs...)
}

// takeDue reports whether wills of this node are due, and counts them out.
func (w *wills) takeDue() (found bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for now := time.Now(); len(w.due) > 0 && !w.due[0].After(now); found = true {
		heap.Pop(&w.due)
		w.count--
	}
	return found
}

// each calls f for the numbers below n, several at a time, and returns its results.
func (w *wills) each(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			errs[i] = f(int(i))
		}
	}
	if w.isOwn || n == 1 {
		work()
		return errs
	}
	var all sync.WaitGroup
	for range min(willsAtOnce, n) {
		all.Go(work)
	}
	all.Wait()
	return errs
}

// claim runs the wills that are due.
func (w *wills) claim(ctx context.Context) error {
	for {
		if err := w.renew(ctx); err != nil {
			return err
		}
		if w.mustStoreAgain() {
			return nil // first: others may have run the wills of this node
		}
		before := w.h.cfg.PubSub.Health()
		if !before.Connected { // another node may run them
			w.paused = time.Now().Add(w.times.Retry)
			return nil
		}
		begun := time.Now()
		one, cancel := context.WithTimeout(ctx, willTimeout)
		claimed, err := w.store.Claim(one, willBatch, w.times.Hold)
		cancel()
		var ran []willChange
		for i := range claimed {
			x := &claimed[i]
			if _, again := w.ran[x.ID]; !again && (time.Since(begun) > w.times.Run() || !w.runOne(ctx, x, begun)) {
				continue
			}
			w.ran[x.ID] = struct{}{}
			ran = append(ran, willChange{Will: *x, ran: true})
		}
		if after := w.h.cfg.PubSub.Health(); !after.Connected || after.Since != before.Since {
			ran = nil // the broadcasts may have been lost
			clear(w.ran)
		}
		if len(ran) < len(claimed) && w.polling.IsZero() {
			w.polling = begun.Add(w.times.Hold) // when the others can be claimed again
		}
		if len(ran) > 0 {
			one, cancel := context.WithTimeout(ctx, willTimeout)
			err = errors.Join(err, w.make(one, ran))
			cancel()
		}
		if err != nil {
			return err
		}
		if len(claimed) < willBatch {
			w.isDue = false
			return nil
		}
	}
}

// runOne runs a will that was claimed. It reports false if that must be tried again.
func (w *wills) runOne(ctx context.Context, x *will.Will, claimed time.Time) bool {
	ctx, cancel := context.WithDeadline(ctx, claimed.Add(w.times.Hold*9/10))
	defer cancel()
	runs, final, err := false, false, error(nil)
	if handler := w.h.routes.match(x.Topic); handler != nil {
		runs, final, err = channelhost.RunWill(ctx, handler, *x)
	}
	if !runs {
		err = w.broadcast(ctx, x)
		final = errors.Is(err, serializer.ErrPayload) || errors.Is(err, history.ErrTooLarge)
	}
	if err != nil {
		const failed = "last will failed"
		withError(w.h.log(zerolog.WarnLevel, failed), err).Str("topic", clip(x.Topic)).Str("event", clip(x.Event)).
			Msg(failed)
	} else {
		const ran = "last will"
		w.h.log(zerolog.DebugLevel, ran).Str("topic", clip(x.Topic)).Str("event", clip(x.Event)).Msg(ran)
		w.h.counts.wills.Add(1)
	}
	return err == nil || final
}

func (w *wills) broadcast(ctx context.Context, x *will.Will) error {
	ps := w.h.cfg.PubSub
	_, err := ps.AppendOnce(ctx, x.ID, x.Topic, x.Event, x.Payload)
	if errors.Is(err, history.ErrNoRule) {
		err = ps.BroadcastFrom(ctx, nil, x.Topic, x.Event, x.Payload.With(memberID, x.ID))
	}
	return err
}

// last stores the last changes. With a shared store it gives up the lease, so that the other nodes
// run what is left.
func (w *wills) last(ctx context.Context) {
	if w.isOwn {
		return // a deploy is not a departure
	}
	ctx, cancel := context.WithTimeout(ctx, willEnd)
	defer cancel()
	err := w.flush(ctx)
	_, leaseErr := w.store.Lease(ctx, w.node, 0)
	if err = errors.Join(err, leaseErr); err != nil {
		w.logUnavailable(err)
	}
}

// dueHeap implements heap.Interface.
type dueHeap []time.Time

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, k int) bool { return h[i].Before(h[k]) }
func (h dueHeap) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(time.Time)) }
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	*h = (*h)[:last]
	return t
}
