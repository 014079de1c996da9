package fakelog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"bennu.example/history"
)

// patience is how long a call waits for an answer, if its context does not end earlier.
const patience = 5 * time.Second

// The bounds of a record's texts.
const (
	maxTexts  = 32 << 10
	maxID     = 64
	maxOrigin = 40
)

// log is the history.Log of a node. Store.mu guards its fields.
type log struct {
	s       *Store
	data    *data
	rnd     *rand.Rand
	faults  Faults
	ahead   time.Duration // of the node's clock
	watches map[string]*watch
	inbox   history.Inbox

	ran, running, connected bool

	since  time.Time // when connected last changed
	cuts   int
	owes   bool // a Gap, because no ready(err) reports the cut
	stored uint64
	failed uint64
	gaps   uint64

	queue []item        // of the feed, in the order of their times
	bytes int           // of the queue
	last  time.Time     // when the last item comes that is in order
	wake  chan struct{} // has an item if Run must look again
}

func (l *log) chance(p float64) bool { return p > 0 && l.rnd.Float64() < p }

// upTo returns a random duration.
func (l *log) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(l.rnd.Int64N(int64(d) + 1))
}

// await waits until ok returns true, which is called under mu. Without a connection that the caller
// could wait for, it returns an error at once.
func (l *log) await(ctx context.Context, ok func() bool) error {
	for {
		l.s.mu.Lock()
		done, running, changed := ok(), l.running, l.s.changed
		l.s.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !running:
			return errors.New("fakelog: Run is not running")
		case done:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// cutsNow returns how often the connection was cut so far.
func (l *log) cutsNow() int {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.cuts
}

func (l *log) isConnected() bool { return l.connected }
func (l *log) isThawed() bool    { return !l.s.frozen }

// travel takes the time of one way of a request.
func (l *log) travel(ctx context.Context) error {
	l.s.mu.Lock()
	d := l.upTo(l.faults.Latency)
	l.s.mu.Unlock()
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Append is part of history.Log.
func (l *log) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	k, _ = history.Rules{"*": k}.Rule("") // with its defaults
	r, err := storable(r, k)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		r, err = l.append(ctx, topic, r, k)
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if err != nil {
		l.failed++
		return history.Record{}, err
	}
	if l.faults.AppendHidesPrev {
		r.Prev = history.Position{}
	}
	return r, nil
}

// storable returns a copy of r as it is stored.
func storable(r history.Record, k history.Keep) (history.Record, error) {
	r.Position, r.Prev = history.Position{}, history.Position{}
	if len(r.Event)+len(r.From) > maxTexts || len(r.ID) > maxID || len(r.Origin) > maxOrigin {
		return r, history.ErrTooLarge
	}
	data, err := r.AppendBinary(nil)
	if err != nil {
		return r, err
	}
	r, err = history.ParseRecord(data)
	if err == nil && size(r) > k.Bytes {
		err = history.ErrTooLarge
	}
	return r, err
}

func (l *log) append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	if err := l.await(ctx, l.isConnected); err != nil {
		return r, fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	// From here on the request is under way.
	cuts := l.cutsNow()
	err := l.travel(ctx)
	if err == nil {
		err = l.await(ctx, l.isThawed)
	}
	var answered bool
	if r, answered = l.arrive(topic, r, k, cuts, err == nil); !answered && err == nil {
		<-ctx.Done()
		err = ctx.Err()
	}
	if err == nil {
		err = l.travel(ctx)
	}
	if l.cutsNow() != cuts {
		err = errCut
	}
	if err != nil {
		return r, fmt.Errorf("%w: %w", history.ErrUncertain, err)
	}
	return r, nil
}

// arrive is what the store does with the request of an append, which was sent after so many cuts of
// the connection. In time means that the caller still waits. Answered means that the caller
// receives an answer.
func (l *log) arrive(
	topic string, r history.Record, k history.Keep, cuts int, inTime bool,
) (_ history.Record, answered bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	answered = inTime && l.cuts == cuts && !l.chance(l.faults.NoAnswer)
	switch {
	case answered:
		r = l.store(topic, r, k)
	case !l.chance(0.5): // the request is lost
	case l.s.frozen:
		l.s.late = append(l.s.late, func() { l.store(topic, r, k) })
	default:
		l.store(topic, r, k)
	}
	return r, answered
}

// store appends a record to the primary of the node, which feeds it. The caller must hold mu.
func (l *log) store(name string, r history.Record, k history.Keep) history.Record {
	t := l.data.topics[name]
	if t == nil {
		t = newTopic(l.data.epoch)
		l.data.topics[name] = t
	}
	top, step := t.top, uint64(1)
	if l.s.holes {
		step += l.s.rnd.Uint64N(3)
	}
	if r = t.append(r, k, step, l.s.now()); t.top == top {
		return r // its ID is known
	}
	l.stored++
	for _, other := range l.s.logs(nil) {
		if other.data == l.data {
			other.feed(name, r)
		}
	}
	return r
}

// call asks the store.
func (l *log) call(ctx context.Context, answer func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := l.await(ctx, l.isConnected)
	if err == nil {
		err = l.travel(ctx)
	}
	if err == nil {
		err = l.await(ctx, func() bool { return l.isConnected() && l.isThawed() })
	}
	if err == nil {
		l.s.mu.Lock()
		err = answer()
		l.s.mu.Unlock()
		if err != nil {
			return err
		}
		err = l.travel(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	return nil
}

// Read is part of history.Log.
func (l *log) Read(ctx context.Context, name string, after history.Position, limit int) (history.Batch, error) {
	return l.batch(ctx, name, func(t *topic) (history.Batch, error) { return t.read(after, limit) })
}

// Before is part of history.Log.
func (l *log) Before(ctx context.Context, name string, before history.Position, limit int) (history.Batch, error) {
	return l.batch(ctx, name, func(t *topic) (history.Batch, error) { return t.before(before, limit) })
}

func (l *log) batch(
	ctx context.Context, name string, read func(*topic) (history.Batch, error),
) (b history.Batch, err error) {
	err = l.call(ctx, func() (err error) {
		b, err = read(l.data.topic(name, l.s.now()).seenAt(wall(l.ahead)))
		if l.faults.ReadHidesPrev {
			for i := range b.Records {
				b.Records[i].Prev = history.Position{}
			}
		}
		return err
	})
	if err != nil {
		return history.Batch{}, err
	}
	return b, nil
}

// Tops is part of history.Log.
func (l *log) Tops(ctx context.Context, topics []string) ([]history.Position, error) {
	tops := make([]history.Position, len(topics))
	err := l.call(ctx, func() error {
		for i, topic := range topics {
			tops[i] = l.data.topic(topic, l.s.now()).top
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tops, nil
}

// Forget is part of history.Log.
func (l *log) Forget(ctx context.Context, topic string) error {
	return l.call(ctx, func() error {
		l.s.reset(l.data, topic)
		for _, other := range l.s.logs(nil) {
			if other.data == l.data {
				other.feedForgotten(topic)
			}
		}
		return nil
	})
}

// Health is part of history.Log.
func (l *log) Health() history.Health {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	h := history.Health{
		Connected: l.connected, Since: l.since, Appended: l.stored, Failed: l.failed, Gaps: l.gaps,
	}
	if !l.connected {
		h.Err = errCut
	}
	return h
}
