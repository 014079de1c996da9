package natsengine

import (
	"context"

	"bennu.example/history"
)

// before reads before a position. The zero Position means after the newest record.
func (v *view) before(ctx context.Context, before history.Position, limit int) (history.Batch, error) {
	p, err := v.load(ctx, 1, limit+2)
	if err != nil {
		return history.Batch{}, err
	}
	end := before.Offset() // records with lower sequences are wanted
	switch {
	case before.IsZero():
		end = v.last.seq + 1
	case end > v.top.Offset() && !(before.IsBeginning() && !v.exists):
		return v.refuse(ctx, before, history.ErrAhead)
	case end == v.top.Offset() && before != v.top:
		return v.refuse(ctx, before, history.ErrTag)
	case before.IsBeginning():
		return v.beforeBeginning(ctx, before, &p)
	}
	if !v.exists || !v.last.isRecord() {
		if !before.IsZero() {
			return v.refuse(ctx, before, history.ErrTrimmed)
		}
		return history.Batch{After: v.top, Top: v.top}, nil
	}
	if p, err = v.window(ctx, p, end, limit+2); err != nil {
		return history.Batch{}, err
	}
	// The page ends with the record at the position, or with the last one.
	n := len(p.messages)
	if !before.IsZero() {
		at := -1
		if n > 0 && p.messages[n-1].seq == end {
			at = n - 1
		}
		switch {
		case at < 0:
			return v.refuse(ctx, before, v.unknown(ctx, before))
		case v.retained(&p) > at:
			return history.Batch{}, history.ErrTrimmed
		case p.messages[at].rec.Position != before:
			return v.refuse(ctx, before, history.ErrTag)
		}
	}
	return v.newest(ctx, &p, !before.IsZero(), limit)
}

// beforeBeginning answers for a beginning, before which there is nothing.
func (v *view) beforeBeginning(ctx context.Context, before history.Position, p *page) (history.Batch, error) {
	if len(p.messages) > 0 {
		switch first := &p.messages[0]; {
		case first.rec.Position == before:
		case first.seq <= before.Offset():
			return v.refuse(ctx, before, history.ErrTag)
		case !first.isRecord():
			return v.refuse(ctx, before, history.ErrTrimmed)
		}
	}
	return history.Batch{After: before, Top: v.top}, nil
}

// newest returns the last records of a page. If exclusive, the last message is not one of them.
func (v *view) newest(ctx context.Context, p *page, exclusive bool, limit int) (history.Batch, error) {
	end := len(p.messages)
	oldest := v.retained(p)
	if exclusive {
		end--
	}
	from := max(end-limit, min(oldest, end))
	b := history.Batch{Top: v.top, More: from > oldest}
	if from == 0 { // what precedes the first message?
		after, err := v.beginning(ctx, p)
		if err != nil {
			return history.Batch{}, err
		}
		if b.After = after; after.IsZero() {
			// It is not known, so the first message can only be the place where the others begin.
			if end == 0 {
				return history.Batch{}, history.ErrTrimmed
			}
			from = 1
			b.More = false
		}
	}
	if from > 0 {
		b.After = p.messages[from-1].rec.Position
	}
	b.Records = records(p.messages[from:end], b.After)
	return b, nil
}

// beginning returns the beginning that precedes the first message of the topic, or the zero
// Position if something was removed before it.
func (v *view) beginning(ctx context.Context, p *page) (history.Position, error) {
	first := p.messages[0]
	whole, err := v.log.get(ctx, getRequest{Seq: 1, NextFor: v.subject, Batch: 1}, v.state.epoch)
	if err != nil {
		return history.Position{}, err
	}
	if len(whole.messages) == 0 || whole.messages[0].seq != first.seq {
		return history.Position{}, errAgain // it was removed meanwhile
	}
	seq, err := v.log.oldestLandmark(ctx, v.state.epoch, false)
	if err != nil || seq > first.seq || whole.pending+1 >= v.state.limits.bound(seq) {
		return history.Position{}, err
	}
	return history.NewPosition(v.state.epoch, seq, beginningTag)
}

// window returns at least the last count messages of the topic up to a sequence, if there are so
// many. The page p begins with the topic's first message.
func (v *view) window(ctx context.Context, p page, end uint64, count int) (page, error) {
	if p.last() < end && p.pending > uint64(count) {
		from, err := v.seek(ctx, p.last(), end, count)
		if err != nil {
			return p, err
		}
		if p, err = v.log.get(ctx, getRequest{Seq: from, NextFor: v.subject, Batch: count}, v.state.epoch); err != nil {
			return p, err
		}
	}
	for p.last() < end && p.pending > 0 {
		next, err := v.log.get(ctx, getRequest{Seq: p.last() + 1, NextFor: v.subject, Batch: count}, v.state.epoch)
		if err != nil {
			return p, err
		}
		if len(next.messages) == 0 {
			return p, errAgain
		}
		if len(p.messages) > count { // only the last ones are wanted
			p.messages = append([]message(nil), p.messages[len(p.messages)-count:]...)
		}
		p.messages = append(p.messages, next.messages...)
		p.pending = next.pending
	}
	for n := len(p.messages); n > 0 && p.messages[n-1].seq > end; n-- {
		p.messages = p.messages[:n-1]
		p.pending++
	}
	return p, nil
}

// maxSeeks bounds the requests of seek.
const maxSeeks = 64

// seek returns a sequence in the interval from low to high, from which on there are at least count
// messages of the topic before high, and not many more.
func (v *view) seek(ctx context.Context, low, high uint64, count int) (uint64, error) {
	after := func(seq uint64) (uint64, error) { // messages from a sequence on
		p, err := v.log.get(ctx, getRequest{Seq: seq, NextFor: v.subject, Batch: 1}, v.state.epoch)
		return p.pending + uint64(len(p.messages)), err
	}
	rest, err := after(high)
	for range maxSeeks {
		if err != nil || low+1 >= high {
			break
		}
		middle := low + (high-low)/2
		var n uint64
		if n, err = after(middle); n >= rest+uint64(count) {
			if low = middle; n <= rest+uint64(2*count) {
				break
			}
		} else {
			high = middle
		}
	}
	return low, err
}
