package presence

import (
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/logging"
	"bennu.example/serializer"
)

// maxPending bounds the diffs that wait for the first state of a join, in bytes.
const maxPending = 4 << 20

// Client keeps the list of the presences on a client's channel. It uses the presence_state that the
// server pushes after every join, and the diffs that follow.
//
// After a rejoin, the list stays unchanged until the new state arrives. Then the callbacks are
// called for the differences only. If the server pushes no state, the list stays unchanged forever.
//
// Its methods may be called from any goroutine, and from its callbacks. The callbacks run like
// those of the channel: one at a time, in order. For one diff or state, they run after the list has
// changed: first the joins, then the leaves, then the updates, then OnSync. A callback that panics
// ends the program.
type Client struct {
	log    zerolog.Logger
	room   *channel.Client // nil in some tests
	events [2]string       // the names of the state and diff events
	off    []func()

	mu      sync.Mutex
	state   State
	shared  bool // List returned the state, so it must be copied before a change
	joinRef serializer.Ref
	synced  bool // a state arrived in the join of joinRef
	lost    bool // that join has ended, or Close was called
	holed   bool // events were dropped that the list may be missing
	pending []pendingDiff
	waiting int // bytes of pending

	onJoin, onLeave []*listener[func(key string, current, changed Entry)]
	onUpdate        []*listener[func(key string, current Entry, old, updated Meta)]
	onSync          []*listener[func()]
}

// ClientConfig overrides the defaults. The zero value uses Phoenix's event names.
type ClientConfig struct {
	StateEvent string // Empty means presence_state.
	DiffEvent  string // Empty means presence_diff.

	// Last is the list until the server pushes the first state, for example what List returned in an
	// earlier process. Synced returns false meanwhile. The callbacks are then called for the
	// differences only.
	Last State

	// Logger receives a message for each payload that is malformed or dropped. Nil means standard
	// error; zerolog.Nop is silent.
	Logger *zerolog.Logger
}

type pendingDiff struct {
	joinRef serializer.Ref
	diff    Diff
}

type listener[F any] struct {
	f   F
	off atomic.Bool
}

// NewClient returns a Client for a channel. It must be called before the channel's Join, so that no
// event is missed. Nil means the zero ClientConfig.
func NewClient(c *channel.Client, cfg *ClientConfig) *Client {
	p := &Client{log: *logging.Default(), room: c, events: [2]string{EventState, EventDiff}}
	if cfg != nil {
		if cfg.StateEvent != "" {
			p.events[0] = cfg.StateEvent
		}
		if cfg.DiffEvent != "" {
			p.events[1] = cfg.DiffEvent
		}
		if cfg.Logger != nil {
			p.log = *cfg.Logger
		}
		p.state, p.shared = cfg.Last, true
	}
	p.off = []func(){c.OnMessage(p.receive), c.OnError(p.failed), c.OnClose(p.failed)}
	return p
}

// Close stops the client. The list stays unchanged, and Synced returns false from then on.
func (p *Client) Close() {
	for _, off := range p.off {
		off()
	}
	p.failed(nil)
}

// failed is called when the channel dropped events, and when its join has ended.
func (p *Client) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var dropped *channel.OverflowError
	if errors.As(err, &dropped) {
		p.holed = true
	} else {
		p.lost = true
	}
}

// List returns the current presences.
func (p *Client) List() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = true
	return p.state
}

// All returns an iterator over the current presences, in the order in which they joined.
func (p *Client) All() iter.Seq2[string, Entry] { return p.List().All() }

// Get returns the entry of a key. It reports false if the key is not present.
func (p *Client) Get(key string) (Entry, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Get(key)
}

// Synced reports whether the list is current, as far as the client can know. That is the case if
// the channel is joined, the server has pushed a state since the join, and no later event was
// dropped because too many were waiting.
//
// So Synced returns false while the client is disconnected, after a leave, and after a rejoin until
// the new state arrives. Until then the list is that of the previous join, or empty.
func (p *Client) Synced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.synced || p.holed || p.lost {
		return false
	}
	if p.room == nil {
		return true
	}
	status, _ := p.room.State() // it changes before the callbacks for the change run
	return status == channel.StateJoined
}

// OnJoin registers a function that is called when a key joins, or when a key that is present gets
// another meta. Current is the entry before; it has no metas if the key was not present. Joined has
// only the new metas. The function off removes f.
//
// As in phoenix.js, f is called again for a meta that arrives again. Servers usually track before
// they push the state, so a client receives its own presence twice, in the state and in a diff. A
// program that counts must compare Meta.Ref: the second time, current contains it.
func (p *Client) OnJoin(f func(key string, current, joined Entry)) (off func()) {
	return listen(&p.mu, &p.onJoin, f)
}

// OnLeave registers a function that is called when a key leaves, or when it loses a meta. Current
// is the entry that remains; it has no metas if the key is gone. Left has only the metas that left.
// The function off removes f.
func (p *Client) OnLeave(f func(key string, current, left Entry)) (off func()) {
	return listen(&p.mu, &p.onLeave, f)
}

// OnSync registers a function that is called after a state or a diff has changed the list. The
// function off removes f.
func (p *Client) OnSync(f func()) (off func()) { return listen(&p.mu, &p.onSync, f) }

// listen adds f to a list of listeners. Such a list is never modified, only replaced.
func listen[F any](mu *sync.Mutex, to *[]*listener[F], f F) (off func()) {
	l := &listener[F]{f: f}
	mu.Lock()
	defer mu.Unlock()
	*to = append(slices.Clone(*to), l)
	return func() {
		l.off.Store(true)
		mu.Lock()
		defer mu.Unlock()
		*to = slices.DeleteFunc(slices.Clone(*to), func(o *listener[F]) bool { return o == l })
	}
}

// receive handles an event of the channel.
func (p *Client) receive(m serializer.Message) {
	var calls []func()
	switch m.Event {
	case p.events[0]:
		if next, ok := read(p, &m, (*parser).state); ok {
			calls = p.applyState(&m, next)
		}
	case p.events[1]:
		if d, ok := read(p, &m, (*parser).diff); ok {
			calls = p.applyDiff(&m, d)
		}
	}
	for _, f := range calls {
		f()
	}
}

// read decodes the payload of m.
func read[T any](p *Client, m *serializer.Message, f func(*parser, *T)) (v T, ok bool) {
	raw, err := m.Payload.JSON()
	if err == nil {
		err = parse(raw, &v, f)
	}
	if err != nil {
		p.log.Error().Err(err).Str("topic", m.Topic).Str("event", m.Event).Msg("presence: event ignored")
	}
	return v, err == nil
}

// applyState applies a state and returns the callbacks to call.
func (p *Client) applyState(m *serializer.Message, next State) (calls []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A diff that was ignored may be newer than the state, although it arrived earlier.
	p.holed = p.waiting > maxPending && p.joinRef == m.JoinRef
	p.joinRef, p.synced, p.lost = m.JoinRef, true, false
	p.merge(difference(p.state, next), &calls)
	for _, d := range p.pending {
		if d.joinRef == m.JoinRef {
			p.merge(d.diff, &calls)
		}
	}
	p.pending, p.waiting = nil, 0
	return p.sync(calls)
}

// applyDiff applies a diff, or keeps it until the state arrives. It returns the callbacks to call.
func (p *Client) applyDiff(m *serializer.Message, d Diff) (calls []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.synced && p.joinRef == m.JoinRef {
		p.merge(d, &calls)
		return p.sync(calls)
	}
	if p.joinRef != m.JoinRef { // the pending diffs belong to an earlier join
		p.pending, p.waiting = nil, 0
	}
	p.joinRef, p.synced = m.JoinRef, false
	if p.waiting += len(m.Payload.Bytes()); p.waiting > maxPending {
		if p.pending != nil {
			p.log.Error().Str("topic", m.Topic).Msg("presence: diffs ignored, too many without a state")
		}
		p.pending = nil
		return nil
	}
	p.pending = append(p.pending, pendingDiff{m.JoinRef, d})
	return nil
}

// merge applies d and appends the callbacks to call. The caller must hold mu.
func (p *Client) merge(d Diff, calls *[]func()) {
	if p.shared {
		p.state, p.shared = p.state.Clone(), false
	}
	collect := func(to []*listener[func(string, Entry, Entry)]) func(string, Entry, Entry) {
		if len(to) == 0 {
			return nil
		}
		return func(key string, current, changed Entry) {
			*calls = append(*calls, func() {
				for _, l := range to {
					if !l.off.Load() {
						l.f(key, current, changed)
					}
				}
			})
		}
	}
	var updates []update
	if len(p.onUpdate) > 0 {
		updates = p.state.updates(d)
	}
	p.state.merge(d, collect(p.onJoin), collect(p.onLeave))
	p.updated(updates, calls)
}

// sync appends the OnSync callbacks. The caller must hold mu.
func (p *Client) sync(calls []func()) []func() {
	for _, l := range p.onSync {
		calls = append(calls, func() {
			if !l.off.Load() {
				l.f()
			}
		})
	}
	return calls
}
