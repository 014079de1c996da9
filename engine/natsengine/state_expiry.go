package natsengine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/state"
)

const (
	// expireBatch bounds the items of one change by Expire.
	expireBatch = 100
	// expireObjects bounds the objects that Expire looks for at a time.
	expireObjects = 100
	// bucketTime is how long the deadlines of a bucket are apart at most.
	bucketTime = time.Minute
	// bucketDelay is the time from the end of a bucket until it is looked at. Until then a write that
	// relies on its bucket is stored.
	bucketDelay = time.Minute
)

// expiry is what a node knows of the buckets of deadlines.
//
// A node knows when the objects expire which it watches, and of which it has a copy or remembers a
// deadline. For all others there are the buckets: before a write with a deadline is stored, the
// name of the object is stored in the bucket of that minute. When the minute has long passed, some
// node deletes what has expired of the objects in the bucket, and then the bucket. Nobody watches
// such an object, so it does not matter that this happens later: what has expired is not read,
// whether it was deleted or not.
type expiry struct {
	mu     sync.Mutex
	done   int64         // the buckets up to this one are empty
	stored int64         // the value of done that is stored; -1 means that it must be read
	known  bool          // done was read
	epoch  string        // of the stream in which it was
	delay  time.Duration // differs between nodes, so that one of them does the work
}

func bucketOf(t time.Time) int64 { return t.UnixMilli() / bucketTime.Milliseconds() }

// bucketSubject returns the subject of objects, or of all with "*", in a bucket.
func (s *objects) bucketSubject(bucket int64, token string) string {
	return s.prefix + ".d." + strconv.FormatInt(bucket, 10) + "." + token
}

// doneSubject is the subject of the last bucket that is empty, together with all before.
func (s *objects) doneSubject() string { return s.prefix + ".d.done" }

// indexDeadlines makes sure that the buckets of the deadlines in a message have the object.
func (s *objects) indexDeadlines(ctx context.Context, c *copyCell, e *entry) error {
	if e.creates() && !e.expires.IsZero() {
		if err := s.indexDeadline(ctx, c, bucketOf(e.expires), e.at); err != nil {
			return err
		}
	}
	for i := range e.items {
		if at := e.items[i].Expires; !at.IsZero() {
			if err := s.indexDeadline(ctx, c, bucketOf(at), e.at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *objects) indexDeadline(ctx context.Context, c *copyCell, bucket int64, now time.Time) error {
	if _, ok := c.indexed[bucket]; ok {
		return nil
	}
	header := nats.Header{nats.MsgRollup: {nats.MsgRollupSubject}}
	if _, err := s.put(ctx, s.bucketSubject(bucket, token(c.object)), header, []byte(c.object)); err != nil {
		return unavailable(err) // the write itself was not sent
	}
	if c.indexed == nil {
		c.indexed = make(map[int64]struct{})
	}
	for old := range c.indexed {
		if old < bucketOf(now) || len(c.indexed) >= maxIndexed {
			delete(c.indexed, old)
		}
	}
	c.indexed[bucket] = struct{}{}
	return nil
}

// maxIndexed bounds the buckets that are remembered of an object.
const maxIndexed = 256

// Expire is part of state.Store. Each deletion is a write that is stored only if nothing was
// written since the node has looked, so of several nodes one succeeds.
func (s *objects) Expire(ctx context.Context, limit int) (n int, err error) {
	if _, err := s.known(ctx, limits{}); err != nil {
		return 0, s.fail("expire", "", err)
	}
	for n < limit {
		names := s.dueBefore(s.now(), expireObjects)
		before := n
		for _, object := range names {
			done, err := s.expireObject(ctx, object, limit-n)
			n += done
			if err != nil {
				return n, s.fail("expire", object, err)
			}
			if n >= limit {
				return n, nil
			}
		}
		if n == before {
			break
		}
	}
	done, err := s.expireBuckets(ctx, limit-n)
	if err != nil {
		return n + done, s.fail("expire", "", err)
	}
	return n + done, nil
}

// expireObject deletes what has expired of an object, at most some items.
func (s *objects) expireObject(ctx context.Context, object string, limit int) (n int, err error) {
	c, st, err := s.hold(ctx, object)
	if err != nil {
		return 0, err
	}
	defer s.release(c)
	w := &writer{s: s, c: c, st: st, base: baseOf(&st)}
	for n < limit {
		e, err := w.commit(ctx, func(now time.Time) (*entry, bool, error) {
			if c.copy.exists && c.copy.isGone(now) {
				return w.gone(state.ReasonExpired, now), false, nil
			}
			if items := c.copy.expired(now, min(expireBatch, limit-n)); len(items) > 0 {
				return w.next(items, now), false, nil
			}
			return nil, false, nil
		})
		switch {
		case err != nil || e == nil:
			return n, err
		case e.kind == kindGone:
			return n + 1, nil
		}
		n += len(e.items)
	}
	return n, nil
}

// expireBuckets deletes what has expired of the objects in old buckets.
func (s *objects) expireBuckets(ctx context.Context, limit int) (n int, err error) {
	x := &s.expiry
	if !x.mu.TryLock() {
		return 0, nil // another call does it
	}
	defer x.mu.Unlock()
	if err := s.readDone(ctx); err != nil {
		return 0, err
	}
	for begun := time.Now(); n < limit && time.Since(begun) < bucketWork; {
		end := time.UnixMilli((x.done + 2) * bucketTime.Milliseconds())
		if s.now().Before(end.Add(bucketDelay + x.delay)) {
			break
		}
		done, empty, err := s.expireBucket(ctx, x.done+1, limit-n)
		n += done
		if err != nil || !empty {
			return n, err
		}
		x.done++
		x.delay = rand.N(bucketDelay)
	}
	if x.done-x.stored >= storeDone {
		header := nats.Header{nats.MsgRollup: {nats.MsgRollupSubject}}
		if _, err := s.put(ctx, s.doneSubject(), header, strconv.AppendInt(nil, x.done, 10)); err != nil {
			return n, err
		}
		x.stored = x.done
	}
	return n, nil
}

const (
	// bucketWork bounds the time in which one call looks at buckets.
	bucketWork = time.Second
	// storeDone is the number of empty buckets that are stored as such together.
	storeDone = 10
)

// readDone reads how many buckets are empty, unless it is known.
func (s *objects) readDone(ctx context.Context) error {
	st, err := s.known(ctx, limits{})
	x := &s.expiry
	if err != nil || x.known && x.epoch == st.epoch {
		return err
	}
	m, ok, err := s.last(ctx, &st, s.doneSubject())
	if err != nil {
		return err
	}
	done := bucketOf(st.created) - 1 // before the stream existed
	if n, err := strconv.ParseInt(string(m.data), 10, 64); ok && err == nil {
		done = n
	}
	x.done, x.stored, x.known, x.epoch, x.delay = done, done, true, st.epoch, rand.N(bucketDelay)
	return nil
}

// expireBucket deletes what has expired of the objects in a bucket, and then the bucket. It reports
// false if it has not come to the end.
func (s *objects) expireBucket(ctx context.Context, bucket int64, limit int) (n int, empty bool, err error) {
	subject := s.bucketSubject(bucket, "*")
	for n < limit {
		a, err := s.messages(ctx, subject, 1, expireObjects)
		if err != nil {
			return n, false, err
		}
		if len(a.messages) == 0 {
			return n, true, nil
		}
		var last uint64
		for _, m := range a.messages {
			if last, err = headerNumber(m, nats.JSSequence); err != nil {
				return n, false, unavailable(err)
			}
			done, err := s.expireObject(ctx, string(m.Data), limit-n+1)
			if n += done; err != nil && !errors.Is(err, errBroken) {
				return n, false, fmt.Errorf("%q: %w", m.Data, err)
			}
			if n > limit {
				return n, false, nil
			}
		}
		if err := s.purge(ctx, subject, last+1); err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}
