package natsengine

import (
	"math"

	"bennu.example/engine/internal/fields"
	"bennu.example/history"
	"bennu.example/state"
)

// encode returns a snapshot of an object.
func (r *replica) encode() []byte {
	w := append(make(fields.Writer, 0, r.size), logVersion)
	w.Text(r.epoch)
	w.Number(r.seq)
	w.Number(r.rev)
	w.Number(milliseconds(r.expires))
	w.Number(uint64(r.keep)) //nolint:gosec // a limit is positive
	w.Number(r.scanned)
	w.Number(r.floor)
	w.Number(uint64(r.revisions.Len()))
	for _, rev := range r.revisions.All() {
		w.Text(rev.tag)
		w.Number(milliseconds(rev.at))
		w.Text(rev.key)
		kind := uint64(notDeleted)
		if rev.under {
			kind = deletedUnder
		} else if rev.deletes {
			kind = byDelete
		}
		w.Number(kind)
	}
	w.Number(uint64(len(r.items)))
	for _, it := range r.items {
		w.Number(it.Rev)
		appendItem(&w, it)
	}
	w.Number(uint64(r.order.Len()))
	for _, id := range r.order.All() {
		id.encode(&w)
	}
	r.removals.encode(&w)
	return w
}

func (x *rememberedID) encode(w *fields.Writer) {
	a := &x.applied
	w.Text(x.id)
	w.Number(milliseconds(x.at))
	w.Text(a.Prev.String())
	w.Text(a.Position.String())
	w.Number(uint64(len(a.Revs)))
	for _, rev := range a.Revs {
		w.Number(rev)
	}
	w.Number(uint64(len(a.Items)))
	for i := range a.Items {
		w.Number(a.Items[i].Rev)
		appendItem(w, &a.Items[i])
	}
}

// parseReplica decodes a snapshot. It reports false if it is malformed.
func parseReplica(data []byte) (*replica, bool) {
	if len(data) == 0 || data[0] != logVersion {
		return nil, false
	}
	d := fields.NewReader(data[1:])
	r := &replica{
		exists: true, epoch: d.Text(), seq: d.Number(), rev: d.Number(), expires: timeOf(d.Number()),
		keep:    int(d.Number() & math.MaxInt32), //nolint:gosec // it fits
		scanned: d.Number(), floor: d.Number(), size: objectOverhead,
	}
	r.snapshot = r.seq
	r.expects(r.expires)
	for n := d.Count(); n > 0; n-- {
		rev := revision{tag: d.Text(), at: timeOf(d.Number()), key: d.Text()}
		kind := d.Number()
		rev.under, rev.deletes = kind == deletedUnder, kind == byDelete
		r.revisions.Push(rev)
		r.size += revisionOverhead
		r.tag = rev.tag
	}
	last := ""
	for n := d.Count(); n > 0; n-- {
		rev := d.Number()
		it := readItem(d)
		it.Rev = rev
		if len(r.items) > 0 && it.Key <= last {
			return nil, false
		}
		last = it.Key
		r.put(&it, true)
	}
	for n := d.Count(); n > 0; n-- {
		r.rememberID(readID(d))
	}
	r.removals = readRemovals(d)
	r.size += r.removals.size()
	if _, err := history.NewPosition(r.epoch, r.rev, r.tag); err != nil || d.Err() != nil ||
		r.revisions.Len() == 0 || uint64(r.revisions.Len()) > r.rev {
		return nil, false
	}
	return r, true
}

func readID(d *fields.Reader) *rememberedID {
	x := &rememberedID{id: d.Text(), at: timeOf(d.Number())}
	a := &x.applied
	var err, err2 error
	a.Prev, err = history.ParsePosition(d.Text())
	if a.Position, err2 = history.ParsePosition(d.Text()); err != nil || err2 != nil {
		d.Fail()
	}
	a.Revs = make([]uint64, d.Count())
	for i := range a.Revs {
		a.Revs[i] = d.Number()
	}
	a.Items = make([]state.Item, d.Count())
	for i := range a.Items {
		rev := d.Number()
		a.Items[i] = readItem(d)
		a.Items[i].Rev, a.Items[i].Value = rev, nil
	}
	return x
}
