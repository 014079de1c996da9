package redisengine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
)

const (
	// maxTops is the number of topics in one request.
	maxTops = 1000
	// topsTries bounds the attempts to read the tops. Each of them fails only if the state at Redis
	// changes at the same time.
	topsTries = 4
)

var errBaseChanged = fmt.Errorf("%w: the base epoch changed", history.ErrUnavailable)

// Tops is part of history.Log.
func (l *recordLog) Tops(ctx context.Context, topics []string) ([]history.Position, error) {
	tops := make([]history.Position, len(topics))
	for i := 0; i < len(topics); i += maxTops {
		end := min(i+maxTops, len(topics))
		if err := l.tops(ctx, topics[i:end], tops[i:end]); err != nil {
			err = broker.Redact(err, l.cfg.secrets)
			return nil, fmt.Errorf("redisengine: read the tops of %d topics: %w", len(topics), err)
		}
	}
	return tops, nil
}

func (l *recordLog) tops(ctx context.Context, topics []string, tops []history.Position) error {
	orphans := make(map[string]bool)
	for range topsTries {
		clear(tops)
		if err := l.touch(ctx, topics, tops, orphans); err != nil {
			return err
		}
		if again, err := l.look(ctx, topics, tops, orphans); err != nil || !again {
			return err
		}
	}
	return errBaseChanged
}

// touch renews the metas of the watched topics for which that is due, and sets their tops. So a
// watched topic keeps its top, and its beginning does not change. It also makes the metas of
// orphans, which lost theirs.
func (l *recordLog) touch(
	ctx context.Context, topics []string, tops []history.Position, orphans map[string]bool,
) error {
	now := time.Now()
	requests := make(map[int]*request)
	l.mu.Lock()
	for i, topic := range topics {
		if w := l.watches[topic]; w != nil && !now.Before(w.renew) || orphans[topic] {
			requests[i] = l.touchRequest(topic)
		}
	}
	l.mu.Unlock()
	for _, q := range requests {
		if err := l.reads.enqueue(q); err != nil {
			return err
		}
	}
	for i, q := range requests {
		if err := l.reads.await(ctx, q); err != nil {
			return err
		}
		answer, err := texts(q.answers[0])
		if err != nil || len(answer) != 4 {
			return fmt.Errorf("%w: %w", history.ErrUnavailable, errors.Join(errAnswer, err))
		}
		life, err := strconv.ParseInt(answer[3], 10, 64)
		if err == nil {
			tops[i], err = parsePosition(answer[0], answer[1], answer[2])
		}
		if err != nil {
			return fmt.Errorf("%w: %w", history.ErrUnavailable, err)
		}
		l.renewed(topics[i], now.Add(time.Duration(life)*time.Millisecond/4))
	}
	return nil
}

func (l *recordLog) touchRequest(topic string) *request {
	return &request{
		script: touchScript,
		keys:   func() []string { return l.keys("h", topic, "") },
		args:   []string{freshEpoch(), strconv.FormatInt(idleLife.Milliseconds(), 10)},
	}
}

// renewed sets when the meta of a topic has to be renewed again. It reports whether the topic is
// watched.
func (l *recordLog) renewed(topic string, next time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.watches[topic]
	if w != nil {
		w.renew = next
	}
	return w != nil
}

// look sets the tops that are not set yet, and adds the topics without a meta that have records to
// orphans. It reports whether this has to be tried again.
func (l *recordLog) look(
	ctx context.Context, topics []string, tops []history.Position, orphans map[string]bool,
) (again bool, err error) {
	var asked []int
	for i := range topics {
		if tops[i].IsZero() {
			asked = append(asked, i)
		}
	}
	if len(asked) == 0 {
		return false, nil
	}
	// MGET reads the base epoch and the metas at one moment.
	keys := func() []string {
		keys := []string{l.base()}
		for _, i := range asked {
			keys = append(keys, l.key("h", topics[i])+":m")
		}
		return keys
	}
	q := &request{commands: []command{{name: "MGET", keys: keys}, {name: "TIME"}}}
	if err := l.reads.do(ctx, q); err != nil {
		return false, err
	}
	texts, err1 := q.answers[0].ToArray()
	clock, err2 := q.answers[1].AsStrSlice()
	if err = errors.Join(err1, err2); err != nil || len(texts) != len(asked)+1 || len(clock) != 2 {
		return false, fmt.Errorf("%w: %w", history.ErrUnavailable, errors.Join(errAnswer, err))
	}
	base, _ := texts[0].ToString() // null if there is none
	seconds, err := strconv.ParseInt(clock[0], 10, 64)
	var unknown []string
	for n, i := range asked {
		switch {
		case err != nil:
		case !texts[n+1].IsNil():
			var m meta
			m, err = parseMeta(texts[n+1].ToString())
			tops[i] = m.top
		case base == "":
			if !again {
				err = l.makeBase(ctx)
			}
			again = true
		case l.renewed(topics[i], time.Time{}):
			again = true
		default:
			unknown = append(unknown, topics[i])
			tops[i], err = history.NewPosition(base, origin(seconds*1000), beginning)
		}
		if err != nil {
			return false, fmt.Errorf("%w: %w", history.ErrUnavailable, err)
		}
	}
	found, err := l.findOrphans(ctx, unknown, orphans)
	return again || found, err
}

// findOrphans adds to orphans the topics that have records. It reports whether there are any.
func (l *recordLog) findOrphans(ctx context.Context, topics []string, orphans map[string]bool) (found bool, err error) {
	if len(topics) == 0 {
		return false, nil
	}
	q := new(request)
	for _, topic := range topics {
		stream := func() []string { return []string{l.key("h", topic) + ":s"} }
		q.commands = append(q.commands, command{name: "EXISTS", keys: stream})
	}
	if err := l.reads.do(ctx, q); err != nil {
		return false, err
	}
	for i, topic := range topics {
		n, err := q.answers[i].AsInt64()
		if err != nil {
			return false, fmt.Errorf("%w: %w", history.ErrUnavailable, err)
		}
		if n > 0 {
			orphans[topic], found = true, true
		}
	}
	return found, nil
}
