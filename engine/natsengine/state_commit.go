package natsengine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/history"
	"bennu.example/state"
)

// goneFor is how long the stream keeps the end of an object, unless it has the IDs of removals.
const goneFor = time.Minute

var (
	errOutcome = errors.New("the outcome of the write is not known")
	errBroken  = errors.New("the log of the object is not complete")
)

// writer makes one write of an object whose cell it holds.
type writer struct {
	s    *objects
	c    *copyCell
	st   streamState
	base history.Position
}

// next returns a change that follows the copy.
func (w *writer) next(items []state.Item, now time.Time) *entry {
	e := w.entry(kindChange, now)
	r := w.c.copy
	e.items, e.revision, e.expires, e.keep = items, e.prev, r.expires, r.keep
	for i := range items {
		e.revision++
		items[i].Rev = e.revision
		e.tags = append(e.tags, history.NewTag())
	}
	switch {
	case len(items) > 0:
	case r.exists:
		e.tags = []string{r.tag}
	default:
		e.tags, e.revision = []string{history.NewTag()}, 1
	}
	if !r.exists {
		e.epoch = newObjectEpoch()
	}
	return e
}

// gone returns the end of the copy's object.
func (w *writer) gone(reason string, now time.Time) *entry {
	e := w.entry(kindGone, now)
	e.reason, e.removals = reason, w.c.copy.removals.recent(now)
	return e
}

func (w *writer) entry(kind byte, now time.Time) *entry {
	r := w.c.copy
	return &entry{kind: kind, at: now, epoch: r.epoch, prev: r.rev, prevTag: r.tag}
}

// newObjectEpoch returns the epoch of a new object.
func newObjectEpoch() string { return epoch(newNonce(), "", "") }

// commit stores the message that plan returns for the copy, and returns it. It returns what was
// stored, which may be the message of an earlier attempt. If plan returns no message or an error,
// unless they are final, the copy is compared with the log first.
//
// A message is stored only if the copy is up to date. If it is not, the writer brings it up to date
// and plans again. If an answer was lost, its message may be stored as long as nothing else follows
// the copy, so it is recognised when the copy is brought up to date.
func (w *writer) commit(
	ctx context.Context, plan func(now time.Time) (e *entry, final bool, err error),
) (*entry, error) {
	s, c := w.s, w.c
	c.nonce, c.found, c.skipped = newMessageNonce(), nil, false
	compared, maybe := false, false // the copy was compared with the log; an earlier message may be stored
	if c.copy == nil || c.doubts != s.doubted() {
		if err := s.refresh(ctx, c, &w.st); err != nil {
			return nil, err
		}
		compared = true
	}
	for {
		e, final, err := plan(s.now())
		switch {
		case e != nil:
			e.nonce = c.nonce
			err = s.publish(ctx, c, e)
			switch {
			case err == nil:
				return e, w.stored(ctx, e)
			case hasCode(err, codeWrongLast, codeWrongLastConstant):
			case errors.Is(err, history.ErrUncertain) && ctx.Err() == nil:
				if !maybe {
					c.skipped = false
				}
				maybe = true
			default:
				return nil, err
			}
		case compared || final:
			return nil, err
		}
		if err := s.refresh(ctx, c, &w.st); err != nil {
			return nil, err
		}
		compared = true
		switch {
		case c.found != nil:
			w.ended(ctx, c.found)
			return c.found, nil
		case maybe && c.skipped:
			return nil, unavailable(errOutcome)
		}
	}
}

// stored applies a message that was stored. If the stream may have lost messages meanwhile, it
// makes sure that the object has it.
func (w *writer) stored(ctx context.Context, e *entry) error {
	s, c := w.s, w.c
	if doubted := s.doubted(); doubted != c.doubts {
		c.copy = nil
		if err := s.refresh(ctx, c, &w.st); err != nil {
			return err
		}
		if r := c.copy; e.kind == kindChange && (!r.exists || r.epoch != e.epoch || r.rev < e.revision ||
			r.first() <= e.revision && r.revision(e.revision).tag != e.tag()) {
			return unavailable(errOutcome)
		}
		return nil
	}
	c.copy.apply(e, w.base)
	w.ended(ctx, e)
	return nil
}

// ended tidies up after a message that was stored.
func (w *writer) ended(ctx context.Context, e *entry) {
	s, c := w.s, w.c
	if e.creates() {
		s.count.add(1)
	}
	if e.kind == kindGone {
		s.count.add(-1)
		_ = s.purge(ctx, s.partsOf(c.object), e.seq) // otherwise the next snapshot removes them
	} else if c.copy.isLong() {
		s.tidying.add(c.object)
	}
}

func newMessageNonce() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

// publish stores a message that follows the copy, and sets its sequence. Without an answer the
// error is history.ErrUncertain.
func (s *objects) publish(ctx context.Context, c *copyCell, e *entry) error {
	if err := s.indexDeadlines(ctx, c, e); err != nil {
		return err
	}
	header := nats.Header{nats.ExpectedLastSubjSeqHdr: {strconv.FormatUint(c.copy.seq, 10)}}
	if e.kind == kindGone {
		header[nats.MsgRollup] = []string{nats.MsgRollupSubject}
		lifetime := goneFor
		if len(e.removals) > 0 {
			lifetime = writeIDAge
		}
		header[nats.MsgTTLHdr] = []string{lifetime.String()}
	}
	data := e.encode()
	seq, err := s.put(ctx, s.logOf(c.object), header, data)
	e.seq, e.size = seq, len(data)
	return err
}

// put stores a message, and returns its sequence.
func (s *objects) put(ctx context.Context, subject string, header nats.Header, data []byte) (uint64, error) {
	answers, err := s.do(ctx, &request{subject: subject, header: header, data: data, stores: true})
	if err != nil {
		return 0, err
	}
	a, err := s.parseAck(answers[0])
	return a.Seq, err
}

// purge removes the messages of a subject before a sequence.
func (s *objects) purge(ctx context.Context, subject string, before uint64) error {
	var answer struct {
		Error *apiError `json:"error"`
	}
	err := s.request(ctx, "STREAM.PURGE", map[string]any{"filter": subject, "seq": before}, &answer)
	if err == nil && answer.Error != nil {
		err = answer.Error
	}
	return err
}
