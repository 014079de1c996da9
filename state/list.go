package state

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// place is where an item of a list goes.
type place struct {
	after string // behind the item with this key, unless begin or end is set
	begin bool
	end   bool
}

// place takes the member "after".
func (m members) place() (*place, error) {
	raw, found := m["after"]
	switch {
	case !found:
		return &place{end: true}, nil
	case string(raw) == "null":
		delete(m, "after")
		return &place{begin: true}, nil
	}
	var p place
	if _, err := m.take("after", &p.after); err != nil || p.after == "" || len(p.after) > maxKey || !isKey(p.after) {
		return nil, invalid("after")
	}
	return &p, nil
}

// find returns a new key for a place, after the ops before it in the same write.
func (w *write) find(ctx context.Context, p *place, before []Op) (string, error) {
	r := Range{From: p.after, Reverse: p.end}
	most := 1
	if p.after != "" {
		most = 2 // the item itself, and the next one
	}
	page, err := w.h.o.store.Read(ctx, w.topic, r, "", most)
	if err != nil {
		return "", storeError(ctx, err)
	}
	lower, upper := p.after, ""
	items := page.Items
	if p.after != "" {
		if len(items) == 0 || items[0].Key != p.after {
			return "", ErrNotFound
		}
		items = items[1:]
	}
	if len(items) > 0 {
		if upper = items[0].Key; p.end {
			lower, upper = upper, ""
		}
	}
	for i := range before {
		op := &before[i]
		switch {
		case op.From == p.after && p.after != "", op.Delete && op.Key == p.after:
			return "", ErrNotFound
		case op.Delete:
		case p.end:
			lower = max(lower, op.Key)
		case op.Key > lower && (upper == "" || op.Key < upper):
			upper = op.Key
		}
	}
	return listKey(lower, upper)
}

// rebalanceBatch is how many items one write moves.
const rebalanceBatch = defaultBatch

var errGrows = errors.New("state: the list has grown to twice its size while it was rebalanced")

// Rebalance gives the items of a list new, short keys, as moves. It is for a list whose inserts
// fail with ErrQuota because many items were inserted at one place. The order stays the same all
// the time. Clients may write meanwhile, but an item that is inserted while its neighbor is moved
// may come to another place. If Rebalance fails, it may be called again.
func (o *Objects) Rebalance(ctx context.Context, topic string) error {
	end, err := o.rebalanceEnd(ctx, topic)
	if err != nil {
		return err
	}
	// The last items come first, so that those that were moved are always behind the others.
	next := end
	for try := 1; ; {
		p, err := o.store.Read(ctx, topic, Range{To: next, Reverse: true}, "", rebalanceBatch)
		if err != nil || len(p.Items) == 0 {
			return err
		}
		ops := make([]Op, len(p.Items))
		key := next
		for i, it := range p.Items {
			if key, err = addInt(key, -1); err != nil {
				return err
			}
			if key <= it.Key {
				return errGrows
			}
			ops[i] = Op{Key: key + randomDigits(), From: it.Key, If: new(uint64)}
		}
		_, err = o.Apply(ctx, topic, ops, Tx{Limits: Limits{Batch: rebalanceBatch}})
		var conflict *ConflictError
		switch {
		case err == nil && p.Next == "": // what was inserted meanwhile has new keys
			return nil
		case err == nil:
			next, try = key, 1
			continue
		case !errors.As(err, &conflict) && !errors.Is(err, ErrNotFound) || try == maxTries:
			return err
		}
		select { // a client has deleted or moved one of the items
		case <-time.After(rand.N(maxPause)):
			try++
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rebalanceEnd returns an integer that has room for twice as many items as the list has between it
// and the last item.
func (o *Objects) rebalanceEnd(ctx context.Context, topic string) (string, error) {
	last, n, next := "", 2*rebalanceBatch, ""
	for {
		p, err := o.store.Read(ctx, topic, Range{}, next, pageItems)
		if err != nil {
			return "", err
		}
		for _, it := range p.Items {
			last = it.Key
		}
		n += 2 * len(p.Items)
		if next = p.Next; next == "" {
			break
		}
	}
	end, _, ok := cutInt(last)
	if !ok {
		if last != "" {
			return "", invalid("list key")
		}
		end = firstInt
	}
	var err error
	for range n {
		if end, err = addInt(end, 1); err != nil {
			return "", err
		}
	}
	return end, nil
}
