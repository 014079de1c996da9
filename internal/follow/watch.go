package follow

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"bennu.example/history"
)

const (
	repairers  = 8    // goroutines that read what is missing
	surveyMost = 1000 // topics in one request

	// A topic is compared with the log after minSurvey to twice that time. The time doubles, up to
	// maxSurvey, as long as nothing is appended.
	minSurvey = 5 * time.Second
	maxSurvey = 30 * time.Second
	// A record that the log has, and that was not fed in this time, is read.
	surveyDelay = time.Second
)

// Run delivers what the log feeds to the topics in use, until ctx ends. Then it returns nil, after
// everything that it started has ended. It must be called once, if the log is not instant. The
// error is that of the log's Run.
func (s *Topics[B]) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer s.running.Store(false)
	s.running.Store(true)
	for range repairers {
		wg.Go(func() { s.runRepairs(ctx) })
	}
	wg.Go(func() { s.runSurveys(ctx) })
	return s.log.Run(ctx, history.Inbox{Record: s.feed, Forgotten: s.forgotten, Gap: s.gap})
}

// feed is Inbox.Record.
func (s *Topics[B]) feed(name string, r history.Record) {
	t := s.Find(name)
	if t == nil {
		return
	}
	defer t.Release()
	if t.has(r.Position) {
		return // repeated, or appended here: it need not be prepared again
	}
	t.Apply(&r, s.hooks.Delivery(name, &r))
}

// has reports whether a record was delivered, and is in the window.
func (t *Topic[B]) has(p history.Position) bool {
	t.order.Lock()
	defer t.order.Unlock()
	return t.started && t.find(p) != nil
}

// forgotten is Inbox.Forgotten.
func (s *Topics[B]) forgotten(name string) {
	if t := s.Find(name); t != nil {
		defer t.Release()
		t.order.Lock()
		defer t.Unlock()
		t.repair(0) // finds out whether the topic begins behind that already
	}
}

// gap is Inbox.Gap.
func (s *Topics[B]) gap(error) {
	var all []*Topic[B]
	s.each(func(t *Topic[B]) { all = append(all, t) })
	for _, t := range all {
		t.surveyNow()
	}
}

// ready is the function that is given to the log's Watch.
func (t *Topic[B]) ready(err error) {
	t.order.Lock()
	t.down = err
	t.notify()
	t.order.Unlock()
	if err == nil {
		t.surveyNow()
	}
}

// surveyNow compares the topic with the log, in the background.
func (t *Topic[B]) surveyNow() {
	t.order.Lock()
	defer t.order.Unlock()
	if !t.gone {
		t.urgent = true
		t.all.surveys.add(t, 0)
	}
}

// runSurveys compares the topics that are due with the log, until ctx ends.
func (s *Topics[B]) runSurveys(ctx context.Context) {
	backoff := time.Duration(0)
	for {
		due := s.surveys.take(ctx, surveyMost)
		if due == nil {
			return
		}
		if s.survey(ctx, due) == nil {
			backoff = 0
			continue
		}
		wait := backOff(&backoff)
		for _, t := range due {
			t.order.Lock()
			if !t.gone {
				s.surveys.add(t, wait)
			}
			t.order.Unlock()
		}
	}
}

// surveyed is what was known of a topic before its top was requested.
type surveyed struct {
	cursor history.Position // zero if it is not known
	resets int
	urgent bool
}

// survey compares topics with the log.
func (s *Topics[B]) survey(ctx context.Context, topics []*Topic[B]) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	names := make([]string, len(topics))
	before := make([]surveyed, len(topics))
	for i, t := range topics {
		names[i] = t.name
		t.order.Lock()
		before[i] = surveyed{resets: t.resets, urgent: t.urgent}
		if t.started {
			before[i].cursor = t.cursor
		}
		t.order.Unlock()
	}
	tops, err := s.log.Tops(ctx, names)
	if err != nil {
		return err
	}
	for i, t := range topics {
		t.compare(tops[i], before[i])
	}
	return nil
}

// compare acts on the top of a topic that the log has returned.
func (t *Topic[B]) compare(top history.Position, before surveyed) {
	t.order.Lock()
	defer t.Unlock()
	if t.gone {
		return
	}
	if t.resets != before.resets { // the answer may be older than the reset
		t.all.surveys.add(t, 0)
		return
	}
	if before.urgent {
		t.urgent = false
	}
	again := minSurvey
	switch {
	case !t.started:
		t.reset(top)
		if !t.expected.IsZero() {
			t.repair(0)
		}
	case top == before.cursor:
		again = min(max(2*t.survey, minSurvey), maxSurvey)
	case before.cursor.Epoch() == top.Epoch() && before.cursor.Offset() < top.Offset() && !before.urgent:
		if !reached(t.cursor, top) { // it may be on its way
			t.expect(top)
			t.repair(surveyDelay)
		}
	default:
		t.repair(0)
	}
	t.survey = again
	t.all.surveys.add(t, again+rand.N(again))
}
