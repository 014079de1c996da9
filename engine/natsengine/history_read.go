package natsengine

import (
	"context"
	"errors"
	"time"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
)

// errAgain says that the answers do not belong together, so that they must be requested again.
var errAgain = errors.New("a replica lags")

// view is what the log knows of a topic while it answers one request.
type view struct {
	log      *historyLog
	state    streamState
	topic    string
	subject  string
	last     message // the last message of the topic
	exists   bool    // there is a last message
	landmark uint64  // the newest
	top      history.Position
}

// Tops is part of history.Log.
func (l *historyLog) Tops(ctx context.Context, topics []string) ([]history.Position, error) {
	ctx, end := l.reading(ctx)
	defer end()
	tops, err := l.tops(ctx, topics)
	return tops, l.wrap("read the tops", err)
}

func (l *historyLog) tops(ctx context.Context, topics []string) ([]history.Position, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	s, err := l.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer l.release()
	subjects := make([]string, len(topics))
	for i, topic := range topics {
		subjects[i] = l.subject(token(topic))
	}
	lasts, landmark, err := l.lasts(ctx, &s, subjects)
	if err != nil {
		return nil, err
	}
	tops := make([]history.Position, len(topics))
	for i, topic := range topics {
		m, ok := lasts[subjects[i]]
		tops[i] = l.top(&s, topic, m, ok, landmark)
	}
	return tops, nil
}

// top returns the top of a topic with a last message. Without one it is a beginning: the newest
// landmark or, while the topic is watched, the one that was returned before.
func (l *historyLog) top(s *streamState, topic string, last message, exists bool, landmark uint64) history.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.watched[token(topic)]
	if exists {
		if last.epoch != s.epoch && time.Since(l.state.checked) >= checkedRecently {
			l.checkSoon() // this node or the one that stored it does not know the stream
		}
		if w != nil {
			w.beginning = history.Position{}
		}
		return last.rec.Position
	}
	if w != nil && w.beginning.Epoch() == s.epoch && w.beginning.Offset() >= l.state.oldest {
		return w.beginning
	}
	p, _ := history.NewPosition(s.epoch, landmark, beginningTag)
	if w != nil {
		w.beginning = p
	}
	return p
}

// Read is part of history.Log.
func (l *historyLog) Read(ctx context.Context, topic string, after history.Position, limit int) (history.Batch, error) {
	return l.batch(ctx, "read after", topic, after, func(ctx context.Context, v *view) (history.Batch, error) {
		if after.IsZero() {
			return history.Batch{}, history.ErrPosition
		}
		return v.after(ctx, after, max(limit, 1))
	})
}

// Before is part of history.Log.
func (l *historyLog) Before(
	ctx context.Context, topic string, before history.Position, limit int,
) (history.Batch, error) {
	return l.batch(ctx, "read before", topic, before, func(ctx context.Context, v *view) (history.Batch, error) {
		return v.before(ctx, before, max(limit, 1))
	})
}

// batch calls read until its answers belong together.
func (l *historyLog) batch(
	ctx context.Context, what, topic string, at history.Position, read func(context.Context, *view) (history.Batch, error),
) (history.Batch, error) {
	ctx, end := l.reading(ctx)
	defer end()
	s, err := l.acquire(ctx)
	if err != nil {
		return history.Batch{}, l.wrap(what, err)
	}
	defer l.release()
	for delay := staleDelay; ; delay = min(2*delay, maxStaleDelay) {
		if !at.IsZero() && at.Epoch() != s.epoch {
			// Another node may know the stream better. A leader decides.
			if s, err = l.confirm(ctx); err == nil && at.Epoch() != s.epoch {
				err = history.ErrEpoch
			}
		}
		v := &view{log: l, state: s, topic: topic, subject: l.subject(token(topic))}
		var b history.Batch
		if err == nil {
			b, err = read(ctx, v)
		}
		if !errors.Is(err, errAgain) {
			return b, l.wrap(what, err)
		}
		if broker.Sleep(ctx, delay); ctx.Err() != nil {
			return history.Batch{}, l.wrap(what, unavailable(err))
		}
		err = nil
	}
}

// retained returns the index of the first record of p that the topic keeps. Those before it are
// expired, too many, or forgotten.
func (v *view) retained(p *page) int {
	oldest := time.Now().Add(-v.last.keep.Age)
	n := len(p.messages)
	i := n
	for ; i > 0; i-- {
		m := &p.messages[i-1]
		newer := p.pending + uint64(n-i)
		if !m.isRecord() || newer >= uint64(v.last.keep.Count) || !m.at.After(oldest) {
			break
		}
	}
	return i
}

// after reads after a position, by the steps of history.Log.
func (v *view) after(ctx context.Context, after history.Position, limit int) (history.Batch, error) {
	seq := after.Offset()
	p, err := v.load(ctx, seq, limit+1)
	if err != nil {
		return history.Batch{}, err
	}
	empty := history.Batch{After: after, Top: v.top}
	switch {
	case after == v.top && (v.exists || seq == v.landmark):
		return empty, nil
	case !v.exists:
		if after.IsBeginning() {
			ok, err := v.complete(ctx, seq, &page{})
			if err != nil || ok {
				return empty, err
			}
		}
		switch {
		case seq > v.top.Offset():
			return v.refuse(ctx, after, history.ErrAhead)
		case seq == v.top.Offset():
			return v.refuse(ctx, after, history.ErrTag)
		}
		return v.refuse(ctx, after, history.ErrTrimmed)
	case seq > v.last.seq:
		return v.refuse(ctx, after, history.ErrAhead)
	case seq == v.last.seq:
		return v.refuse(ctx, after, history.ErrTag)
	}
	found, other := false, false // the log has the position; it has another record there
	if len(p.messages) > 0 && p.messages[0].seq == seq {
		found = p.messages[0].rec.Position == after
		other = !found
		p.messages = p.messages[1:]
	}
	if err := v.extend(ctx, &p, seq, limit); err != nil {
		return history.Batch{}, err
	}
	switch {
	case len(p.messages) == 0 || v.retained(&p) > 0:
		return history.Batch{}, history.ErrTrimmed
	case other:
		return v.refuse(ctx, after, history.ErrTag)
	case !found:
		if err := v.unknown(ctx, after); err != nil {
			return v.refuse(ctx, after, err)
		}
	}
	b := history.Batch{After: after, Top: v.top}
	b.More = p.pending > 0 || len(p.messages) > limit
	b.Records = records(p.messages[:min(len(p.messages), limit)], after)
	return b, nil
}

// maxRead bounds the payloads of one answer, except that it has at least one record.
const maxRead = 8 << 20

// extend adds the messages after a sequence to a page that is not complete, because an answer of
// the server has a bound in bytes.
func (v *view) extend(ctx context.Context, p *page, after uint64, limit int) error {
	size := 0
	for i := range p.messages {
		size += len(p.messages[i].rec.Payload.Bytes())
	}
	for p.pending > 0 && len(p.messages) < limit && (size < maxRead || len(p.messages) == 0) {
		g := getRequest{Seq: max(after, p.last()) + 1, NextFor: v.subject, Batch: limit - len(p.messages)}
		next, err := v.log.get(ctx, g, v.state.epoch)
		switch {
		case err != nil:
			return err
		case len(next.messages) == 0:
			return errAgain // they were removed meanwhile
		}
		for i := range next.messages {
			size += len(next.messages[i].rec.Payload.Bytes())
		}
		p.messages = append(p.messages, next.messages...)
		p.pending = next.pending
	}
	if n := len(p.messages); p.pending == 0 && n > 0 && p.last() > v.last.seq { // appended meanwhile
		v.last = p.messages[n-1]
		v.top = v.last.rec.Position
	}
	return nil
}

// records returns the records of messages, with their predecessors.
func records(messages []message, prev history.Position) []history.Record {
	all := make([]history.Record, len(messages))
	for i := range messages {
		all[i] = messages[i].rec
		all[i].Prev = prev
		prev = all[i].Position
	}
	return all
}

// unknown decides about a position that the stream does not have, although it has later records of
// the topic. It returns nil for a beginning after which nothing was removed.
func (v *view) unknown(ctx context.Context, after history.Position) error {
	p, err := v.log.get(ctx, getRequest{Seq: 1, NextFor: v.subject, Batch: 1}, v.state.epoch)
	switch {
	case err != nil:
		return err
	case len(p.messages) == 0:
		return errAgain
	case p.messages[0].seq < after.Offset(): // it would be there if it had ever existed
		return history.ErrTag
	case !p.messages[0].isRecord(): // forgotten
		return history.ErrTrimmed
	}
	ok, err := v.complete(ctx, after.Offset(), &p)
	switch {
	case err != nil:
		return err
	case !ok:
		return history.ErrTrimmed
	case !after.IsBeginning():
		return history.ErrTag
	}
	return nil
}

// complete reports whether the topic has everything that was stored after a sequence. The page has
// the first message of the topic, if there is one.
func (v *view) complete(ctx context.Context, seq uint64, first *page) (bool, error) {
	if uint64(len(first.messages))+first.pending >= v.state.limits.bound(seq) {
		return false, nil
	}
	oldest, err := v.log.oldestLandmark(ctx, v.state.epoch, false)
	return err == nil && oldest <= seq, err
}

// refuse returns an answer that ends channels. If there are replicas, the leader must agree: it
// must not have the record at the position.
func (v *view) refuse(ctx context.Context, at history.Position, answer error) (history.Batch, error) {
	if v.state.replicas > 1 && loss(answer) && at.Offset() > 0 {
		m, ok, err := v.log.leaderGet(ctx, getRequest{Seq: at.Offset()}, v.state.epoch, false)
		switch {
		case err != nil:
			answer = err
		case ok && m.subject == v.subject && m.rec.Position == at:
			answer = errAgain
		}
	}
	return history.Batch{}, answer
}

// loss reports whether an answer ends channels.
func loss(err error) bool {
	return errors.Is(err, history.ErrTrimmed) || errors.Is(err, history.ErrAhead) || errors.Is(err, history.ErrTag)
}
