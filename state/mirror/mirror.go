package mirror

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/push"
	"bennu.example/serializer"
)

// Mirror is what the mirrors of all kinds of objects have in common. Its methods, and those of the
// kinds, may be called from any goroutine. It has no goroutine of its own. It ends by Close, with
// its client, or when the server ends the channel, for example because the object was removed.
type Mirror struct {
	topic   string
	kind    string
	keys    keyRange
	channel *channel.Client
	idText  string // of push ids, before their number
	ids     atomic.Uint64

	mu      sync.Mutex
	params  joinParams
	items   []*item // by key
	pos     history.Position
	id      string
	expires time.Time
	limits  limits
	part    bool // it has items by their number, a query, or what the server shows: without a position

	keeper
	extra    any  // params of the join in addition to "$state", or nil
	complete bool // the copy was complete at its position
	stale    bool // the copy is the stored one
	updating bool // the mirror has no user

	joins   uint64 // how often the server has accepted a join
	resets  uint64 // how often the copy was cleared
	synced  bool   // since the last join, everything was received
	cause   error  // why it is not joined, or was not
	ended   error  // why it has ended; nil while it has not
	closed  bool   // by Close
	closes  uint64 // calls of Close
	changed chan struct{}
	streams []*stream
}

// limits are those that the server reports.
type limits struct{ Value, Items, Batch int }

// open opens the object and waits until the copy is complete.
func (m *Mirror) open(ctx context.Context, o Opener, kind, topic string, opt *Options) error {
	err := m.prepare(kind, topic, opt)
	var join *push.Push
	if err == nil {
		join, err = m.begin(o, opt)
	}
	if err == nil && join != nil {
		if err = m.awaitOpen(ctx, join); err != nil {
			m.channelClosed(nil)
			m.Close(Forget)
		}
	}
	if err != nil {
		return fmt.Errorf("mirror: open %s: %w", topic, err)
	}
	return nil
}

// begin makes the channel and joins. It returns the push if the caller must wait for the copy.
func (m *Mirror) begin(o Opener, opt *Options) (join *push.Push, err error) {
	m.channel = o.Channel(m.topic, m.join)
	channelhost.Follow(m.channel, follower{m})
	if err := m.openStored(opt); err != nil {
		return nil, err
	}
	isStale := m.stale
	join = m.channel.Join()
	if isStale {
		m.follow(join)
		return nil, nil
	}
	return join, nil
}

func (m *Mirror) prepare(kind, topic string, opt *Options) (err error) {
	if opt == nil {
		opt = &Options{}
	}
	m.kind, m.topic, m.keys = kind, topic, opt.keys()
	m.idText = rand.Text()[:16] + "-"
	if m.params, err = opt.joinParams(); err != nil {
		return err
	}
	if opt.Restore != nil {
		return m.restore(opt.Restore)
	}
	return nil
}

func (m *Mirror) awaitOpen(ctx context.Context, join *push.Push) error {
	answered := join.Done()
	for {
		m.mu.Lock()
		synced, ended, cause, changed := m.synced, m.ended, m.cause, m.change()
		m.mu.Unlock()
		switch {
		case ended != nil:
			return ended
		case synced:
			return nil
		}
		select {
		case <-changed:
		case <-answered: // only the first result; a failed join is repeated, unless it cannot be
			answered = nil
			if _, err := join.Wait(ctx); isFinal(err) {
				return err
			}
		case <-ctx.Done():
			if cause != nil {
				return fmt.Errorf("%w: %w", ctx.Err(), cause)
			}
			return ctx.Err()
		}
	}
}

// isFinal reports whether a join that failed by err is not repeated.
func isFinal(err error) bool {
	return errors.Is(err, channel.ErrDuplicate) || errors.Is(err, channel.ErrClosed)
}

// join returns the params of a join.
func (m *Mirror) join(context.Context) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.params
	if !m.pos.IsZero() {
		p.Since = m.pos.String()
	}
	if p.Mode == New && (m.joins > 0 || m.stale) {
		p = joinParams{Since: p.Since, Mode: Existing, Keys: p.Keys, Query: p.Query}
	}
	if m.extra != nil {
		return serializer.Value(m.extra).With("$state", p), nil
	}
	return map[string]joinParams{"$state": p}, nil
}

// ID identifies the object. If an object is removed and made again, the new one has another ID. It
// is empty if the object does not exist.
func (m *Mirror) ID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

// Expires returns when the object expires, as the server said at the last join. Zero means never.
func (m *Mirror) Expires() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expires
}

// Synced reports whether the copy is complete and follows the object. It is false during an
// interruption, and after one until everything that was missed has arrived.
func (m *Mirror) Synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.synced
}

// Stale reports whether the copy is an old one: it is that of the store, see Options.Keep, and the
// server has not completed it yet, or it does not change any more, because the mirror was closed or
// has ended.
func (m *Mirror) Stale() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stale || m.ended != nil
}

// Close ends all iterators and, unless the policy is KeepUpdating, the mirror. It does not wait for
// the server. It may be called again with another policy, which also applies to what Options.Keep
// has stored.
func (m *Mirror) Close(p Policy) {
	if p == KeepUpdating {
		m.keeper.update()
	} else {
		m.close(p)
	}
	m.mu.Lock()
	m.endStreams()
	m.updating = m.updating || p == KeepUpdating
	m.closes++
	m.notify()
	if p != KeepUpdating {
		m.closed = true
		m.end(channel.ErrLeft)
	}
	if p == Forget {
		m.items, m.pos, m.complete = nil, history.Position{}, false
	}
	m.mu.Unlock()
	if p != KeepUpdating && m.channel != nil {
		m.channel.Leave()
	}
}

// end ends the mirror. The caller holds mu.
func (m *Mirror) end(err error) {
	m.synced = false
	if m.ended == nil {
		m.ended = err
	}
	m.notify()
	for _, s := range m.streams {
		s.signal()
	}
}

// fail ends a mirror that cannot work.
func (m *Mirror) fail(err error) {
	m.keeper.allow(false)
	m.mu.Lock()
	m.end(err)
	m.mu.Unlock()
	m.channel.Leave()
}

// change returns a channel that is closed at the next change of any kind. The caller holds mu.
func (m *Mirror) change() <-chan struct{} {
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

// notify wakes those that wait for a change. The caller holds mu.
func (m *Mirror) notify() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// wait waits until done, which is called with mu held, returns true.
func (m *Mirror) wait(ctx context.Context, done func() bool) error {
	for {
		m.mu.Lock()
		if done() {
			m.mu.Unlock()
			return nil
		}
		changed := m.change()
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follower receives what happens to the mirror's channel, on the goroutine of the client's socket.
// It runs no code of the user.
type follower struct{ m *Mirror }

// joinReply is a reply to a join.
type joinReply struct {
	State *struct {
		Kind      string           `json:"kind"`
		ID        string           `json:"id"`
		Recovered bool             `json:"recovered"`
		Why       string           `json:"why"`
		Pos       history.Position `json:"pos"`
		Rev       uint64           `json:"rev"`
		Value     json.RawMessage  `json:"value"`
		Items     []entry          `json:"items"`
		ExpiresIn float64          `json:"expires_in"`
		Limits    limits           `json:"limits"`
	} `json:"$state"`
}

var errNoState = errors.New("the topic is not a shared object")

func (f follower) Joined(reply serializer.Payload) {
	m := f.m
	var r joinReply
	if err := reply.Decode(&r); err != nil || r.State == nil {
		m.fail(errNoState)
		return
	}
	s := r.State
	if s.Kind != m.kind {
		m.fail(fmt.Errorf("%w: the object is a %s, not a %s", ErrInvalid, s.Kind, m.kind))
		return
	}
	m.keeper.allow(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended != nil {
		return
	}
	m.joins++
	m.synced, m.cause, m.part = false, nil, s.Why == "window"
	m.id, m.limits, m.expires = s.ID, s.Limits, time.Time{}
	if s.ExpiresIn > 0 {
		m.expires = time.Now().Add(time.Duration(s.ExpiresIn * float64(time.Second)))
	}
	if !s.Recovered {
		m.reset()
		if s.Rev > 0 {
			m.put("", s.Rev, s.Value)
		}
		m.applyAll(s.Items)
	}
	if !s.Recovered || !s.Pos.IsZero() {
		m.pos = s.Pos
	}
	m.notify()
}

// reset clears the copy. The caller holds mu.
func (m *Mirror) reset() {
	m.resets++
	m.items, m.complete = nil, false
	m.emit(change{kind: Reset})
}

func (f follower) Errored(err error) {
	m := f.m
	var refused *push.Error
	isRefused := errors.As(err, &refused)
	m.mu.Lock()
	m.synced, m.cause = false, err
	opened := m.joins > 0 || m.stale
	isNew := m.joins == 0
	if isRefused && refused.Reason() == "invalid position" {
		m.pos, isRefused = history.Position{}, false // the next join has none
	}
	m.notify()
	m.mu.Unlock()
	if !isRefused {
		return
	}
	err = wireError(refused, "")
	switch {
	case !opened && !errors.Is(err, history.ErrUnavailable), errors.Is(err, ErrNotFound),
		isNew && isForbidden(err):
		m.fail(err)
	case isForbidden(err):
		m.keeper.allow(false)
	}
}

func (f follower) Closed(err error) {
	f.m.channelClosed(err)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.end(fmt.Errorf("%w: %w", channel.ErrClosed, err))
}
