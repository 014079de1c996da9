package presence

import (
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/serializer"
)

// maxPending bounds the diffs that wait for the first state, in bytes.
const maxPending = 4 << 20

// Client keeps who is on a client's channel, by the presence_state that the server pushes after every join and the diffs that follow.
//
// After a rejoin the list stays as it was until the new state has come; then what changed meanwhile is told, and only that. The list holds
// for ever if the server pushes no state.
//
// Its methods may be called from any goroutine, its callbacks among them. The callbacks run as the channel's do: one at a time, in
// order. Those of one diff or state run when the list has changed already, joins first, then leaves, then OnSync. A callback that
// panics ends the program.
type Client struct {
	log    zerolog.Logger
	room   *channel.Client // nil in some tests
	events [2]string       // of the state and of the diff
	off    []func()

	mu      sync.Mutex
	state   State
	shared  bool // the state was given away: change a copy
	joinRef serializer.Ref
	synced  bool // there was a state in the join of joinRef
	lost    bool // that join has ended, or Close was called
	holed   bool // events were lost that it may not have
	pending []pendingDiff
	waiting int // bytes of pending

	onJoin, onLeave []*listener[func(key string, current, changed Entry)]
	onSync          []*listener[func()]
}

// ClientConfig is for what is not as usual. The zero ClientConfig is.
type ClientConfig struct {
	StateEvent string          // "": presence_state
	DiffEvent  string          // "": presence_diff
	Logger     *zerolog.Logger // is told of payloads that make no sense; nil: silent
}

type pendingDiff struct {
	joinRef serializer.Ref
	diff    Diff
}

type listener[F any] struct {
	f   F
	off atomic.Bool
}

// NewClient follows who is on a channel, from now on: call it before the channel's Join. A nil config is the zero ClientConfig.
func NewClient(c *channel.Client, cfg *ClientConfig) *Client {
	p := &Client{log: zerolog.Nop(), room: c, events: [2]string{EventState, EventDiff}}
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
	}
	p.off = []func(){c.OnMessage(p.receive), c.OnError(p.failed), c.OnClose(p.failed)}
	return p
}

// Close stops following. The list stays as it is, and Synced is false from now on.
func (p *Client) Close() {
	for _, off := range p.off {
		off()
	}
	p.failed(nil)
}

// failed is called when the channel has dropped events, and when its join has ended.
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

// List is who is there now.
func (p *Client) List() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = true
	return p.state
}

// All yields who is there now, in the order in which they came.
func (p *Client) All() iter.Seq2[string, Entry] { return p.List().All() }

// Get is what is known of one key.
func (p *Client) Get(key string) (Entry, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Get(key)
}

// Synced reports whether the list is right, as far as the client can know. The channel is joined, the server has pushed a state
// since that join, and no later event was dropped because too many waited. So it is false while the client is disconnected, after
// a leave, and after a rejoin until the new state has arrived. Meanwhile the list is that of the join before, or empty.
func (p *Client) Synced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.synced || p.holed || p.lost {
		return false
	}
	if p.room == nil {
		return true
	}
	status, _ := p.room.State() // known before the callbacks of its change have run
	return status == channel.StateJoined
}

// OnJoin has f called when a key comes, or one more meta of it, with the entry before, which has no metas if the key was not there, and
// the entry that came, which has the new metas only. As in phoenix.js it is called again for a meta that comes again: a server that tracks
// before it pushes the state, as is usual, tells a client of itself twice, in the state and in a diff. Whoever counts goes by Meta.Ref: the
// second time, current has it.
func (p *Client) OnJoin(f func(key string, current, joined Entry)) (off func()) {
	return listen(&p.mu, &p.onJoin, f)
}

// OnLeave has f called when a key leaves, or one meta of it, with the entry that remains, which has no metas if the key is gone, and the
// entry that left.
func (p *Client) OnLeave(f func(key string, current, left Entry)) (off func()) {
	return listen(&p.mu, &p.onLeave, f)
}

// OnSync has f called when a state or a diff has changed the list.
func (p *Client) OnSync(f func()) (off func()) { return listen(&p.mu, &p.onSync, f) }

// listen adds f to listeners, which are never changed, only replaced.
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

// receive takes an event of the channel.
func (p *Client) receive(m serializer.Message) {
	var calls []func()
	switch m.Event {
	case p.events[0]:
		if next, ok := read(p, &m, (*parser).state); ok {
			calls = p.takeState(&m, next)
		}
	case p.events[1]:
		if d, ok := read(p, &m, (*parser).diff); ok {
			calls = p.takeDiff(&m, d)
		}
	}
	for _, f := range calls {
		f()
	}
}

// read is the payload of m.
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

// takeState returns the callbacks that are due.
func (p *Client) takeState(m *serializer.Message, next State) (calls []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holed = p.waiting > maxPending && p.joinRef == m.JoinRef // a diff that was ignored may be newer than the state, though it came before
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

// takeDiff returns the callbacks that are due.
func (p *Client) takeDiff(m *serializer.Message, d Diff) (calls []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.synced && p.joinRef == m.JoinRef {
		p.merge(d, &calls)
		return p.sync(calls)
	}
	if p.joinRef != m.JoinRef { // what waits is of a join before
		p.pending, p.waiting = nil, 0
	}
	p.joinRef, p.synced = m.JoinRef, false
	if p.waiting += len(m.Payload.Bytes()); p.waiting > maxPending {
		if p.pending != nil {
			p.log.Error().Str("topic", m.Topic).Msg("presence: too many diffs and no state: they are ignored")
		}
		p.pending = nil
		return nil
	}
	p.pending = append(p.pending, pendingDiff{m.JoinRef, d})
	return nil
}

// merge applies d and appends the callbacks that are due. The caller holds mu, as in sync.
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
	p.state.merge(d, collect(p.onJoin), collect(p.onLeave))
}

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
