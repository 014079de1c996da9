package natsengine

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
)

// maxReplay bounds the messages of one answer.
const maxReplay = 512

// doubted returns how often the stream may have lost messages that were stored.
func (s *objects) doubted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubts
}

// entryOf decodes a message that a server sent as the answer to a direct request.
func entryOf(m *nats.Msg) (*entry, bool) {
	seq, err := headerNumber(m, nats.JSSequence)
	if err != nil {
		return nil, false
	}
	return parseEntry(seq, m.Data)
}

// messages returns the messages of a subject from a sequence on, at most some.
func (s *objects) messages(ctx context.Context, subject string, from uint64, limit int) (answer, error) {
	if _, err := s.acquire(ctx); err != nil {
		return answer{}, err
	}
	defer s.remote.release()
	r, err := s.direct(getRequest{Seq: from, NextFor: subject, Batch: limit})
	if err != nil {
		return answer{}, err
	}
	return s.answered(ctx, r)
}

// last returns the last message of a subject. It reports false if there is none.
func (s *objects) last(ctx context.Context, st *streamState, subject string) (m storedMessage, ok bool, err error) {
	if _, err := s.acquire(ctx); err != nil {
		return m, false, err
	}
	defer s.remote.release()
	if st.replicas > 1 {
		r, err := s.leader(getRequest{LastFor: subject}, false)
		if err != nil {
			return m, false, err
		}
		return s.leaderAnswered(ctx, r)
	}
	r, err := s.direct(getRequest{MultiLast: []string{subject}})
	if err != nil {
		return m, false, err
	}
	a, err := s.answered(ctx, r)
	if err != nil || len(a.messages) == 0 {
		return m, false, err
	}
	m.data = a.messages[0].Data
	m.seq, err = headerNumber(a.messages[0], nats.JSSequence)
	return m, err == nil, err
}

// lastEntries adds the last messages of logs by their subjects.
func (s *objects) lastEntries(ctx context.Context, st *streamState, subjects []string, all map[string]*entry) error {
	for delay := staleDelay; ; delay = min(2*delay, maxStaleDelay) {
		if _, err := s.acquire(ctx); err != nil {
			return err
		}
		fresh, err := s.lastMessages(ctx, st.replicas, subjects, func(m *nats.Msg) {
			if e, ok := entryOf(m); ok {
				all[m.Header.Get(nats.JSSubject)] = e
			}
		})
		s.remote.release()
		if err != nil || fresh {
			return err
		}
		if broker.Sleep(ctx, delay); ctx.Err() != nil {
			return unavailable(ctx.Err())
		}
	}
}

// refresh brings the copy up to date.
func (s *objects) refresh(ctx context.Context, c *copyCell, st *streamState) error {
	for delay := staleDelay; ; delay = min(2*delay, maxStaleDelay) {
		err := s.refreshOnce(ctx, c, st)
		if !errors.Is(err, errAgain) {
			return err
		}
		if broker.Sleep(ctx, delay); ctx.Err() != nil {
			return unavailable(fmt.Errorf("%w: %w", ctx.Err(), err))
		}
	}
}

func (s *objects) refreshOnce(ctx context.Context, c *copyCell, st *streamState) (err error) {
	doubts := s.doubted()
	m, ok, err := s.last(ctx, st, s.logOf(c.object))
	if err != nil {
		return err
	}
	r := c.copy
	e, valid := parseEntry(m.seq, m.data)
	switch {
	case !ok:
		c.skipped = c.skipped || r != nil && r.exists
		c.copy = &replica{}
	case !valid:
		return unavailable(errBroken)
	case r != nil && r.has(e):
	case e.kind == kindGone:
		c.skipped = c.skipped || r == nil || !r.follows(e)
		c.copy = &replica{}
		c.apply(c.copy, e, baseOf(st))
	case r != nil && r.seq < e.seq && r.follows(e):
		c.apply(r, e, baseOf(st))
	default:
		caught := false
		if r != nil && r.exists && r.seq < e.seq {
			if caught, err = s.catchUp(ctx, c, e, baseOf(st)); err != nil {
				return err // the copy is as the log was, up to some message
			}
		}
		if !caught {
			c.copy = nil
			if err := s.load(ctx, c, e, baseOf(st)); err != nil {
				return err
			}
		}
	}
	c.doubts = doubts
	return nil
}

// replay applies the messages of a log after a sequence, up to an entry. It reports false if one
// does not follow.
func (s *objects) replay(
	ctx context.Context, c *copyCell, after uint64, to *entry, apply func(e *entry) bool,
) (bool, error) {
	for after < to.seq {
		a, err := s.messages(ctx, s.logOf(c.object), after+1, maxReplay)
		if err != nil {
			return false, err
		}
		if len(a.messages) == 0 {
			return false, errAgain // a replica lags, or the object was removed meanwhile
		}
		for _, m := range a.messages {
			e, ok := entryOf(m)
			if !ok {
				return false, unavailable(errBroken)
			}
			if !apply(e) {
				return false, nil
			}
			after = e.seq
		}
	}
	return true, nil
}

// catchUp applies what follows the copy. It reports false if the copy is not continued by the log.
func (s *objects) catchUp(ctx context.Context, c *copyCell, to *entry, base history.Position) (bool, error) {
	r := c.copy
	return s.replay(ctx, c, r.seq, to, func(e *entry) bool {
		ok := r.follows(e)
		if ok {
			c.apply(r, e, base)
		}
		return ok
	})
}

// load makes the copy from the log and the newest snapshot.
func (s *objects) load(ctx context.Context, c *copyCell, to *entry, base history.Position) error {
	r := &replica{}
	first := true
	var failure error
	ok, err := s.replay(ctx, c, 0, to, func(e *entry) bool {
		if first && !r.follows(e) {
			c.skipped = true
			newest, err := s.newestSnapshot(ctx, c.object)
			if newest == nil {
				failure = err
				return false
			}
			r = newest
		}
		first = false
		if e.seq <= r.seq {
			return true // the snapshot has it
		}
		ok := r.follows(e)
		if ok {
			c.apply(r, e, base)
		}
		return ok
	})
	switch {
	case err != nil:
		return err
	case failure != nil:
		return failure
	case !ok:
		return errAgain // meanwhile a newer snapshot has replaced messages
	}
	c.copy = r
	return nil
}

// apply applies a message that follows a copy, and recognises that of the writer.
func (c *copyCell) apply(r *replica, e *entry, base history.Position) {
	if e.nonce == c.nonce {
		c.found = e
	}
	r.apply(e, base)
}
