package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
)

// op is a write as it is pushed.
type op struct {
	ID    string          `json:"$id,omitempty"`
	Op    string          `json:"op,omitempty"` // in a batch
	Key   string          `json:"key,omitempty"`
	After json.RawMessage `json:"after,omitempty"` // a key, or null for the beginning of a list
	Value json.RawMessage `json:"value,omitempty"`
	If    *uint64         `json:"if,omitempty"`
	TTL   json.RawMessage `json:"ttl,omitempty"` // seconds; null removes it
	Pos   json.RawMessage `json:"$pos,omitempty"`
}

// batch is a write of several items as it is pushed.
type batch struct {
	ID  string          `json:"$id"`
	Ops []op            `json:"ops"`
	Pos json.RawMessage `json:"$pos,omitempty"`
}

// repeated returns the body of a write that is sent again. From its position at the first attempt
// the server finds out whether it may have forgotten the id.
func repeated(body any, first history.Position) any {
	pos := json.RawMessage("null")
	if !first.IsZero() {
		pos = json.RawMessage(strconv.Quote(first.String()))
	}
	switch b := body.(type) {
	case op:
		b.Pos = pos
		return b
	case batch:
		b.Pos = pos
		return b
	case nodeOp:
		b.Pos = pos
		return b
	case nodeAdd:
		b.Pos = pos
		return b
	}
	panic("mirror: not a write")
}

// written is the reply to any write.
type written struct {
	Rev  uint64   `json:"rev"`
	Key  string   `json:"key"`
	Revs []uint64 `json:"revs"`
	Keys []string `json:"keys"`
}

const (
	// A store remembers the ids of at least 750 writes of the last 10 minutes that changed something.
	// A write is not repeated after this time, or if the object is so many revisions further.
	repeatWithin = 9 * time.Minute
	repeatRevs   = 500

	maxCrashes = 3 // of the server's channel, by one write
	maxBatch   = 256 << 10

	minPause = 50 * time.Millisecond // before a repetition, doubled up to maxPause
	maxPause = 2 * time.Second
	// conflictPause bounds the random pause after a conflict.
	conflictPause = 20 * time.Millisecond
)

// id returns the id of a new write.
func (m *Mirror) newID() string { return m.idText + strconv.FormatUint(m.ids.Add(1), 36) }

// start is the state of the mirror when a write was sent first.
type start struct {
	at    time.Time
	pos   history.Position
	joins uint64
}

// write pushes a write until it is answered, and waits until the copy has it. The body has an id.
// The key is that of the only item; the reply names others.
func (m *Mirror) write(ctx context.Context, event, key string, body any) (w written, err error) {
	m.mu.Lock()
	begin, resets := start{time.Now(), m.pos, m.joins}, m.resets
	m.mu.Unlock()
	reply, err := m.push(ctx, event, body, begin)
	if err == nil {
		if err = reply.Decode(&w); err != nil {
			err = errMalformed
		}
	}
	if err != nil {
		return w, fmt.Errorf("mirror: %s to %s: %w", event, m.topic, wireError(err, key))
	}
	rev := w.Rev
	if w.Key != "" {
		key = w.Key
	}
	for i, r := range w.Revs {
		if i < len(w.Keys) && r > rev && m.has(w.Keys[i]) {
			key, rev = w.Keys[i], r
		}
	}
	m.awaitWritten(ctx, key, rev, resets)
	return w, nil
}

// push pushes a write, again and again while its outcome is unknown.
func (m *Mirror) push(ctx context.Context, event string, body any, begin start) (serializer.Payload, error) {
	pause, crashes := minPause, 0
	for {
		joins := m.joinCount()
		p := m.channel.Push(event, body)
		reply, err := p.Wait(ctx)
		switch {
		case err == nil:
			return reply, nil
		case ctx.Err() != nil:
			p.Cancel()
			return reply, err
		case errors.Is(err, channel.ErrClosed):
			return reply, err
		case errors.Is(err, push.ErrLost):
			var crashed *channel.RemoteError
			if errors.As(err, &crashed) {
				if crashes++; crashes == maxCrashes {
					return reply, fmt.Errorf("%w: %w", history.ErrUncertain, err)
				}
			}
			joins++ // the next one
		case errors.Is(err, push.ErrTimeout):
		case errors.Is(err, reasonUnavailable):
			if err := sleep(ctx, pause/2+rand.N(pause)); err != nil {
				return reply, err
			}
			pause = min(2*pause, maxPause)
		default:
			return reply, err
		}
		if again := m.mayRepeat(ctx, begin, joins); again != nil {
			return reply, fmt.Errorf("%w: %w", again, err)
		}
		body = repeated(body, begin.pos)
	}
}

func (m *Mirror) joinCount() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.joins
}

// mayRepeat waits until the copy is complete after so many joins. Then it returns an error if the
// server may have forgotten the id of a write.
func (m *Mirror) mayRepeat(ctx context.Context, begin start, joins uint64) error {
	var now history.Position
	var ended error
	var part bool
	err := m.wait(ctx, func() bool {
		now, ended, part = m.pos, m.ended, m.part
		return ended != nil || m.synced && m.joins >= joins
	})
	switch {
	case err != nil:
		return err
	case ended != nil:
		return ended
	case part || time.Since(begin.at) > repeatWithin:
		return history.ErrUncertain
	case begin.pos.IsZero() || begin.pos.IsBeginning(): // this write may have made the object
		begin.pos = now
		if now.Offset() > repeatRevs {
			return history.ErrUncertain
		}
	}
	if now.Epoch() != begin.pos.Epoch() || now.Offset() > begin.pos.Offset()+repeatRevs {
		return history.ErrUncertain
	}
	return nil
}

// awaitWritten waits until the copy has a revision of an item, or what came after it.
func (m *Mirror) awaitWritten(ctx context.Context, key string, rev, resets uint64) {
	if rev == 0 || !m.has(key) {
		return
	}
	_ = m.wait(ctx, func() bool { // if ctx ends, the write was acknowledged nevertheless
		if m.ended != nil || m.part || m.resets != resets && m.synced {
			return true
		}
		it := m.get(key)
		return it != nil && it.rev >= rev || m.pos.Offset() >= rev
	})
}

// encode encodes a value, and checks its size before the server does, which might end the
// connection.
func (m *Mirror) encode(v any) (json.RawMessage, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	m.mu.Lock()
	most := m.limits.Value
	m.mu.Unlock()
	if most > 0 && len(text) > most {
		return nil, &LimitError{Err: ErrTooLarge, Max: most}
	}
	return text, nil
}

// set puts a value.
func (m *Mirror) set(ctx context.Context, key string, v any, rev *uint64) error {
	text, err := m.encode(v)
	if err != nil {
		return err
	}
	_, err = m.write(ctx, "put", key, op{ID: m.newID(), Key: key, Value: text, If: rev})
	return err
}

// update reads, changes and writes an item until nobody has changed it meanwhile.
func update[T any](ctx context.Context, m *Mirror, key string, f func(*T) error) error {
	var it item
	var ended error
	err := m.wait(ctx, func() bool {
		it = item{key: key}
		if now := m.get(key); now != nil {
			it = *now
		}
		ended = m.ended
		return m.synced || ended != nil
	})
	if err == nil {
		err = ended
	}
	if err != nil {
		return fmt.Errorf("mirror: update of %s: %w", m.topic, err)
	}
	for {
		v, err := decode[T](&it)
		if err != nil {
			return err
		}
		if err := f(&v); err != nil {
			return err
		}
		err = m.set(ctx, key, v, &it.rev)
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
		it.rev, it.value = conflict.Rev, conflict.Value
		if err := sleep(ctx, rand.N(conflictPause)); err != nil {
			return fmt.Errorf("mirror: update of %s: %w", m.topic, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
