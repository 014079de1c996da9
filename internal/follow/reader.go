package follow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"bennu.example/history"
)

// Start is where a reader begins.
type Start struct {
	// Since is the last position that the client has. The zero Position means that it has none.
	Since history.Position
	// Last is the number of the newest items to read if Since cannot be continued. It is bounded by
	// Keep.MaxReplay.
	Last int
	// Reach bounds the age: no older item is read. The zero Time means no bound.
	Reach time.Time
	// NoReplay begins at the cursor, whatever the other fields are.
	NoReplay bool
}

// Mark is where a reader has begun.
type Mark struct {
	Position history.Position
	// Why is empty if the reader continues Start.Since. Otherwise it is one of the reasons.
	Why string
}

// The reasons why a reader did not continue Start.Since.
const (
	WhyNew     = "new"     // there was no position
	WhyEpoch   = "epoch"   // history.ErrEpoch
	WhyTrimmed = "trimmed" // history.ErrTrimmed
	WhyAhead   = "ahead"   // history.ErrAhead
	WhyTag     = "tag"     // history.ErrTag
	WhyMany    = "many"    // more than Keep.MaxReplay items
	WhyReach   = "reach"   // items that are older than Start.Reach
)

// Why returns the reason that an answer of the log gives, or "" for any other error.
func Why(err error) string {
	switch {
	case errors.Is(err, history.ErrEpoch):
		return WhyEpoch
	case errors.Is(err, history.ErrTrimmed):
		return WhyTrimmed
	case errors.Is(err, history.ErrAhead):
		return WhyAhead
	case errors.Is(err, history.ErrTag):
		return WhyTag
	}
	return ""
}

// IsLoss reports whether an answer of the log means that a position cannot be continued.
func IsLoss(err error) bool { return Why(err) != "" }

// Reader is the place of one subscriber in a topic. The zero Reader is not open.
//
// One goroutine at a time may call its methods, except that Live may be called from any goroutine,
// and Park by the goroutine that delivers.
type Reader[B any] struct {
	t        *Topic[B]
	position history.Position
	slot     *slot[B] // the items after it are held in the window. Nil means none
	live     atomic.Bool
}

// Sender is implemented by the sender of a broadcast from a client.
type Sender interface {
	// ClientID identifies the client across its connections, see channelhost.Carrier. Empty means that
	// it is unknown.
	ClientID() string
}

// Subscriber is implemented by a subscriber that has a Reader. Its methods are called under order
// and the topic's lock. They must not block, and must call no method of a Reader but Live and Park.
type Subscriber[B any] interface {
	// Skip is called instead of a delivery if the subscriber is the sender of the item.
	Skip(item B)
	// Lost reports that the log was forgotten, or has lost items that were delivered. The subscriber
	// must not be sent further items. It should end after some time, so that not all clients return at
	// once.
	Lost(after time.Duration)
}

// Flip is the result of an attempt to go live.
type Flip int

const (
	// FlipLive means that the reader is live.
	FlipLive Flip = iota
	// FlipBehind means that there are items to read.
	FlipBehind
	// FlipLost means that the reader is not at a place that the log has: the log was forgotten or lost
	// records. The reader must not become live there.
	FlipLost
)

// Open begins to read. It finds out whether start.Since can be continued, and holds the items after
// the mark: they stay in the window, within its bound, until the reader is live or closed, or calls
// Unhold. If err is nil, the reader takes over the caller's use of the topic, and Close releases
// it. The error is that of the log, if it does not answer.
func (r *Reader[B]) Open(ctx context.Context, t *Topic[B], start Start) (m Mark, err error) {
	r.t = t
	if m, err = r.open(ctx, start); err != nil {
		r.t = nil
	}
	return m, err
}

func (r *Reader[B]) open(ctx context.Context, start Start) (m Mark, err error) {
	t := r.t
	m.Why = WhyNew
	if !start.NoReplay && !start.Since.IsZero() {
		m, err = r.seek(ctx, start.Since, bound{reach: start.Reach, most: true})
		if err != nil || m.Why == "" || m.Why == WhyReach {
			return m, err
		}
	}
	if last := min(start.Last, t.keep.MaxReplay); last > 0 && !start.NoReplay {
		b, err := t.all.log.Before(ctx, t.name, history.Position{}, last)
		if err != nil {
			return m, err
		}
		from, err := r.seek(ctx, b.After, bound{reach: start.Reach})
		if err != nil || from.Why == "" || from.Why == WhyReach {
			return Mark{from.Position, m.Why}, err
		}
		// The records were trimmed in between: there is nothing to replay.
	}
	if err := t.Lock(ctx); err != nil {
		return m, err
	}
	defer t.Unlock()
	m.Position = t.cursor
	r.hold(t.slots[len(t.slots)-1])
	return m, nil
}

// Seek places the reader behind another position, if all items after it can be read. Then why is
// empty. Otherwise it is one of the reasons, and the reader stays where it is, as after an error,
// which is that of the log. The reader must be open and not live. Of start, only Since and Reach
// count.
func (r *Reader[B]) Seek(ctx context.Context, start Start) (why string, err error) {
	m, err := r.seek(ctx, start.Since, bound{reach: start.Reach, most: true, exact: true})
	return m.Why, err
}

// bound is the bound of what a reader reads.
type bound struct {
	reach time.Time // no older item is read
	most  bool      // at most Keep.MaxReplay items are read
	exact bool      // the reader does not begin later because of reach
}

// seekTries bounds the attempts to bring the window and the log together. Each of them fails only
// if the window was trimmed meanwhile.
const seekTries = 5

// seek places the reader after a position, if this can be continued.
func (r *Reader[B]) seek(ctx context.Context, p history.Position, to bound) (Mark, error) {
	t := r.t
	for tries := 0; tries < seekTries; {
		if err := t.Lock(ctx); err != nil {
			return Mark{}, err
		}
		if s := t.find(p); s != nil {
			defer t.Unlock()
			return r.place(s, to), nil
		}
		wait := t.filling
		if wait == nil {
			t.filling = make(chan struct{})
		}
		t.Unlock()
		if wait != nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return Mark{}, ctx.Err()
			}
		}
		tries++
		if m, done, err := r.fill(ctx, p, to); done || err != nil {
			return m, err
		}
	}
	return Mark{Why: WhyTrimmed}, nil // every doubt is a no
}

// place places the reader at a slot of the window. The caller must hold order.
func (r *Reader[B]) place(s *slot[B], to bound) (m Mark) {
	missed := r.t.after(s)
	if to.most && len(missed) > r.t.keep.MaxReplay {
		return Mark{Why: WhyMany}
	}
	if !to.reach.IsZero() {
		// The last item that is too old counts, not the first that is not: if the log's clock was set
		// back, older items follow newer ones.
		old := 0
		for i, next := range missed {
			if next.time < to.reach.UnixMilli() {
				old = i + 1
			}
		}
		if old > 0 {
			if m.Why = WhyReach; to.exact {
				return m
			}
			s = missed[old-1]
		}
	}
	r.hold(s)
	m.Position = s.item.Position
	return m
}

// fill reads the items after a position into the window. It reports done if it has placed the
// reader, or if the position cannot be continued.
func (r *Reader[B]) fill(ctx context.Context, p history.Position, to bound) (m Mark, done bool, err error) {
	t := r.t
	b, err := t.all.log.Read(ctx, t.name, p, t.keep.MaxReplay+1)
	items := make([]B, len(b.Records))
	for i := range b.Records {
		items[i] = t.all.hooks.Item(t.name, &b.Records[i])
	}
	t.order.Lock()
	defer t.order.Unlock()
	close(t.filling)
	t.filling = nil
	switch {
	case IsLoss(err):
		return Mark{Why: Why(err)}, true, nil
	case err != nil:
		return Mark{}, true, err
	case to.most && len(b.Records) > t.keep.MaxReplay:
		return Mark{Why: WhyMany}, true, nil
	}
	if s := t.equivalent(b); s != nil {
		return r.place(s, to), true, nil
	}
	if !t.started || t.extend(b, items) || t.all.instant {
		return Mark{}, false, nil // the window may have been trimmed meanwhile
	}
	return Mark{}, false, t.awaitRepair(ctx, p)
}

// awaitRepair waits until the window has the position p or a repair has ended. It is needed if the
// log has p and the topic is behind it, or if the log has not what the topic has delivered. The
// caller must hold order.
func (t *Topic[B]) awaitRepair(ctx context.Context, p history.Position) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	before := t.repaired
	t.repair(0)
	err := t.await(ctx, func() bool { return t.gone || !t.started || t.repaired != before || t.find(p) != nil })
	if err != nil {
		err = fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	return err
}

// hold makes the reader hold the items after s. The caller must hold order.
func (r *Reader[B]) hold(s *slot[B]) {
	r.unhold()
	s.holds++
	r.slot = s
	r.position = s.item.Position
}

// unhold ends a hold. The caller must hold order.
func (r *Reader[B]) unhold() {
	if r.slot != nil {
		r.slot.holds--
		r.slot = nil
	}
}

// Position returns the position of the last item that was handled. For a live reader it is the
// topic's cursor.
func (r *Reader[B]) Position() history.Position {
	if !r.live.Load() {
		return r.position
	}
	r.t.order.Lock()
	defer r.t.order.Unlock()
	return r.t.cursor
}

// Top returns the position of the log's newest item. Everything up to it was delivered to the live
// readers.
func (r *Reader[B]) Top(ctx context.Context) (history.Position, error) {
	t := r.t
	if !t.all.instant {
		return t.awaitTop(ctx)
	}
	if err := t.Lock(ctx); err != nil {
		return history.Position{}, err
	}
	defer t.Unlock()
	return t.cursor, nil
}

// awaitTop requests the position of the log's newest item, and waits until the topic has reached
// it.
func (t *Topic[B]) awaitTop(ctx context.Context) (history.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tops, err := t.all.log.Tops(ctx, []string{t.name})
	if err != nil {
		return history.Position{}, err
	}
	if err := t.Lock(ctx); err != nil {
		return history.Position{}, err
	}
	defer t.Unlock()
	if !reached(t.cursor, tops[0]) {
		t.expect(tops[0])
		t.repair(feedDelay)
	}
	if err := t.await(ctx, func() bool { return t.gone || reached(t.cursor, tops[0]) }); err != nil {
		return history.Position{}, fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	return tops[0], nil
}

// Sync calls f under order, with the position up to which the reader's client was sent everything,
// and whether the reader is live. So what f sends cannot overtake an item. It must not do more.
func (r *Reader[B]) Sync(f func(p history.Position, live bool)) {
	r.t.order.Lock()
	defer r.t.Unlock()
	if r.live.Load() {
		f(r.t.cursor, true)
	} else {
		f(r.position, false)
	}
}

// Missed returns the number of items after Position. Its errors are those of Next.
func (r *Reader[B]) Missed(ctx context.Context) (int, error) {
	if err := r.t.Lock(ctx); err != nil {
		return 0, err
	}
	if s := r.locate(); s != nil {
		defer r.t.Unlock()
		return len(r.t.after(s)), nil
	}
	r.t.Unlock()
	n := 0
	for at := r.position; ; {
		b, err := r.t.all.log.Read(ctx, r.t.name, at, r.t.keep.MaxReplay)
		if err != nil {
			return 0, err
		}
		if n += len(b.Records); !b.More {
			return n, nil
		}
		at = b.Records[len(b.Records)-1].Position
	}
}

// locate returns the slot of the reader's position and holds it, or nil if the window does not have
// it. The caller must hold order.
func (r *Reader[B]) locate() *slot[B] {
	s := r.slot
	if s == nil || s.cut || s.item.Position != r.position {
		s = r.t.find(r.position)
	}
	if s != r.slot {
		r.unhold()
		if s != nil {
			s.holds++
			r.slot = s
		}
		r.t.trim(false)
	}
	return s
}

// Next appends at most limit items after Position to dst, oldest first. It does not move. The items
// come from the window. If the reader was too slow for it, they come from the log, and the error
// may be history.ErrTrimmed, ErrEpoch, ErrAhead or ErrTag. After any other error the caller may try
// again. A live reader has nothing to read.
func (r *Reader[B]) Next(ctx context.Context, limit int, dst []Item[B]) ([]Item[B], error) {
	if r.Live() {
		return dst, nil
	}
	t := r.t
	if err := t.Lock(ctx); err != nil {
		return dst, err
	}
	if s := r.locate(); s != nil {
		defer t.Unlock()
		return t.appendAfter(dst, s, limit), nil
	}
	t.Unlock()
	b, err := t.all.log.Read(ctx, t.name, r.position, limit)
	if err != nil {
		return dst, err
	}
	n := t.delivered(b.Records)
	if n == 0 && !t.all.instant {
		t.order.Lock()
		defer t.Unlock()
		t.repair(0) // what was delivered is not in the log
		return dst, fmt.Errorf("%w: it has not what was delivered", history.ErrUnavailable)
	}
	for i := range n {
		dst = append(dst, Item[B]{b.Records[i].Position, t.all.hooks.Item(t.name, &b.Records[i])})
	}
	return dst, nil
}

// Window is Next without the log: it does not wait. It reports false if the window does not have
// the items.
func (r *Reader[B]) Window(limit int, dst []Item[B]) (items []Item[B], ok bool) {
	if r.Live() {
		return dst, true
	}
	t := r.t
	t.order.Lock()
	defer t.Unlock()
	s := r.locate()
	if s == nil {
		return dst, false
	}
	return t.appendAfter(dst, s, limit), true
}

// appendAfter appends at most limit items after s, which must be in the window. The caller must
// hold order.
func (t *Topic[B]) appendAfter(dst []Item[B], s *slot[B], limit int) []Item[B] {
	slots := t.after(s)
	slots = slots[:min(limit, len(slots))]
	dst = slices.Grow(dst, len(slots))
	for _, s := range slots {
		dst = append(dst, s.item)
	}
	return dst
}

// delivered returns how many of the records were delivered to the live readers. A reader must not
// read further than them.
func (t *Topic[B]) delivered(records []history.Record) int {
	t.order.Lock()
	defer t.order.Unlock()
	n := len(records)
	for n > 0 && records[n-1].Position.Epoch() == t.cursor.Epoch() && !reached(t.cursor, records[n-1].Position) {
		n--
	}
	return n
}

// Advance moves the reader behind an item that Next returned, after it was handled.
func (r *Reader[B]) Advance(it Item[B]) { r.position = it.Position }

// Flip makes the reader live if it has handled everything up to the cursor.
func (r *Reader[B]) Flip() Flip { return r.FlipSending(nil) }

// FlipSending is Flip, but first it hands the remaining items to send, under order, as long as send
// returns true. It does not if the window does not have all of them.
func (r *Reader[B]) FlipSending(send func(B) bool) Flip {
	t := r.t
	t.order.Lock()
	defer t.Unlock()
	if r.Live() {
		return FlipLive
	}
	if send != nil {
		if s := r.locate(); s != nil {
			for _, next := range t.after(s) {
				if !send(next.item.Item) {
					return FlipBehind
				}
				r.position = next.item.Position
			}
		}
	}
	switch {
	case r.position == t.cursor:
		r.unhold()
		t.trim(false)
		r.live.Store(true)
		return FlipLive
	case r.position.Epoch() == t.cursor.Epoch() && r.position.Offset() < t.cursor.Offset():
		return FlipBehind
	}
	return FlipLost
}

// GoLive makes the reader live at the cursor, whatever its position is. It leaves a gap.
func (r *Reader[B]) GoLive() {
	r.t.order.Lock()
	defer r.t.Unlock()
	r.unhold()
	r.t.trim(false)
	r.position = r.t.cursor
	r.live.Store(true)
}

// Unhold ends the hold on the window. A reader that may not send for some time calls it. The next
// call of Next holds again.
func (r *Reader[B]) Unhold() {
	r.t.order.Lock()
	defer r.t.Unlock()
	r.unhold()
	r.t.trim(false)
}

// Live reports whether the reader is live. During a delivery it does not change, except by Park.
func (r *Reader[B]) Live() bool { return r.live.Load() }

// Park ends being live during the delivery of an item, which the reader will read later. Only the
// goroutine that delivers may call it, for a live reader.
func (r *Reader[B]) Park() {
	r.position = r.t.cursor // not the item's: the cursor moves after the delivery
	r.live.Store(false)
}

// Close ends the use of the topic. The caller must have ended the subscription. It does nothing if
// the reader is not open. The reader may be opened again.
func (r *Reader[B]) Close() {
	t := r.t
	if t == nil {
		return
	}
	r.live.Store(false)
	t.order.Lock()
	r.unhold()
	t.trim(false)
	t.Unlock()
	r.t, r.position = nil, history.Position{}
	t.Release()
}
