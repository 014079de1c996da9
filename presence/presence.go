package presence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/crdt"
	"bennu.example/internal/exactjson"
	"bennu.example/logging"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

var (
	// ErrTracked is returned, wrapped, by Track if the owner already tracks the key on the topic.
	ErrTracked = errors.New("already tracked")
	// ErrNotTracked is returned, wrapped, by Update and Change if the owner does not track the key
	// on the topic.
	ErrNotTracked = errors.New("not tracked")
	// ErrClosed is returned, wrapped, by Track, Update and Change after Close and when the owner
	// has ended.
	ErrClosed = errors.New("closed")
)

// Config configures a Presence. The zero value behaves like Phoenix.
type Config struct {
	// Fetch returns extra fields for the entries of the given keys, such as {"user": {…}}. Each
	// value must encode as a JSON object; keys may be omitted.
	//
	// List, Get and Push call it on the caller's goroutine, and each diff calls it once. If it
	// fails or panics, the error is logged and the metas are sent without extra fields. Its context
	// ends after 10 s or at Close.
	Fetch func(ctx context.Context, topic string, keys []string) (map[string]any, error)

	// OnDiff is called on every node after each diff was broadcast. It receives the diff and the
	// state of the topic after it. The state is only valid during the call; Clone it to keep it.
	// A panic is logged.
	OnDiff func(topic string, d Diff, now State)

	// Grace is how long a presence outlives the channel that tracked it, unless its client left or
	// the server stopped the channel. If the same key is tracked on the topic during that time,
	// clients see no leave and join, and an update only if the meta differs. If the key is tracked
	// on another node, the new meta is added before the old one is removed. Zero means no grace
	// period, as in Phoenix.
	Grace time.Duration

	// Window is how long the changes of a topic with at least WindowFrom keys are collected before
	// they are broadcast as one diff. Presences that both join and leave within the window are
	// omitted.
	//
	// Zero means that the window depends on the load: a change is broadcast immediately unless the
	// topic's last diff was sent within the last 50 µs for each of its keys or subscribers, whichever
	// are more, and at most within the last second. Then the changes are collected until that time
	// has passed. A negative value means that every change is broadcast immediately, as in Phoenix.
	Window time.Duration
	// WindowFrom is the smallest number of keys, or of subscribers on this node if Window is zero,
	// for which changes are collected. Zero means 256 if Window is zero, and otherwise every topic.
	WindowFrom int

	// Name identifies this Presence in the cluster. Presences with different names share nothing.
	// Empty means "presence".
	Name string

	// Node is a name of this node that is stable across restarts. With it, the other nodes remove
	// the presences of the previous process as soon as they receive a message from the new one,
	// instead of after Down. Empty means the adapter's name for the node.
	Node string

	// Period is the interval of the checks for unreachable nodes and missed messages. Zero means
	// 1.5 s.
	Period time.Duration
	// Delay is the minimum time between two messages with changes to the other nodes. A change
	// after a longer pause is sent immediately. Zero means 100 ms.
	Delay time.Duration
	// Silence is the number of periods without a message to the other nodes after which a heartbeat
	// is sent. Zero means 5, so that two heartbeats in a row may be lost before Down. Phoenix uses
	// 10, which tolerates no loss.
	Silence int
	// Down is how long a node may be silent before its presences leave. They return as soon as a
	// message from the node arrives. Zero means 20 periods, which is 30 s by default.
	Down time.Duration
	// Permdown is how long a node may be silent before everything about it is deleted. Zero means
	// 20 minutes, or twice Down if that is longer.
	Permdown time.Duration
	// Shards is the number of replicas that the topics are divided among. It must be the same on
	// all nodes. Zero means 1.
	Shards int

	// KeepOnClose makes Close skip the goodbye message. The other nodes then keep the presences of
	// this node until Down, so clients that reconnect within that time never appear to leave. In
	// this mode, close the Presence before the sockets, because presences end with their channels.
	KeepOnClose bool

	// Hooks are notified of changes and diffs, for metrics. They are called in this order.
	Hooks []*Hooks

	// Logger receives errors. Nil means warnings and errors on standard error; zerolog.Nop is
	// silent. It is called from many goroutines; a panic in its writer or hooks may end the program.
	Logger *zerolog.Logger
}

// Owner is what a presence belongs to. The presence ends when its owner ends. *channel.Channel
// implements Owner. Owners are compared with ==; an owner of an incomparable type cannot track
// anything.
type Owner interface {
	// OnEnd registers f to be called once when the owner ends. It returns false, without calling f,
	// if the owner has ended already.
	OnEnd(f func()) bool
}

// Presence tracks who is present on which topic.
type Presence struct {
	ps      *pubsub.PubSub
	cfg     Config
	log     zerolog.Logger
	ctx     context.Context // for Fetch
	cancel  context.CancelFunc
	started time.Time
	work    sync.WaitGroup // goroutines that broadcast; Add is called under the lock of an open shard
	shards  []*shard
}

// New returns a Presence that broadcasts its diffs through ps. If ps has an adapter, it shares its
// state with the Presences of the same name on other nodes.
//
// New panics if a value other than Window is negative, if Down is less than two periods, or if Down
// is not less than Permdown.
func New(ps *pubsub.PubSub, cfg Config) *Presence {
	p := &Presence{ps: ps, cfg: cfg, started: time.Now()}
	p.log = *cmp.Or(p.cfg.Logger, logging.Default())
	p.cfg.complete()
	p.ctx, p.cancel = context.WithCancel(context.Background())
	addr := ps.Node()
	name := cmp.Or(p.cfg.Node, addr)
	for i := range p.cfg.Shards {
		s := newShard(p, crdt.Replica{Name: name, Vsn: newVsn()}, addr != "")
		if addr != "" {
			s.gossip = newGossiper(s, fmt.Sprintf("bennu:presence:%s:%d", p.cfg.Name, i), addr)
		}
		p.shards = append(p.shards, s)
	}
	for _, s := range p.shards {
		if s.gossip != nil {
			s.gossip.start()
		}
	}
	return p
}

// complete sets the defaults and panics if the config is invalid.
func (c *Config) complete() {
	c.Name = cmp.Or(c.Name, "presence")
	c.Period = cmp.Or(c.Period, 1500*time.Millisecond)
	c.Delay = cmp.Or(c.Delay, 100*time.Millisecond)
	c.Silence = cmp.Or(c.Silence, 5)
	c.Down = cmp.Or(c.Down, 20*c.Period)
	c.Permdown = cmp.Or(c.Permdown, max(20*time.Minute, 2*c.Down))
	c.Shards = cmp.Or(c.Shards, 1)
	if c.Window == 0 {
		c.WindowFrom = cmp.Or(c.WindowFrom, windowFrom)
	}
	if c.Period < 0 || c.Delay < 0 || c.Silence < 0 || c.Grace < 0 || c.WindowFrom < 0 || c.Shards < 0 {
		panic("presence: a negative value in the config")
	}
	if c.Down < 2*c.Period || c.Permdown <= c.Down {
		panic(fmt.Sprintf("presence: Down (%v) must be at least two periods (%v), and less than Permdown (%v)",
			c.Down, c.Period, c.Permdown))
	}
}

// newVsn returns a version for a new replica. It is larger than those of earlier processes, as far
// as the clock is right, and differs from those of all other nodes.
func newVsn() uint64 {
	return uint64(time.Now().UnixMilli())<<22 | rand.Uint64N(1<<22)
}

// Close stops the Presence and notifies the other nodes, whose clients then see its presences
// leave. Afterwards nothing is tracked or broadcast on this node. Close waits for running callbacks
// until ctx ends. Further calls do nothing.
func (p *Presence) Close(ctx context.Context) error {
	var err error
	for _, s := range p.shards {
		if s.close() && s.gossip != nil {
			err = errors.Join(err, s.gossip.end(ctx))
		}
	}
	p.cancel()
	done := make(chan struct{})
	go func() { p.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("presence: close: %w", err)
	}
	return nil
}

func (p *Presence) shard(topic string) *shard {
	if len(p.shards) == 1 {
		return p.shards[0]
	}
	h := fnv.New32a()
	h.Write([]byte(topic))
	return p.shards[h.Sum32()%uint32(len(p.shards))]
}

// Track adds the channel's client to those present on its topic, under a key, until the channel
// ends. The meta must encode as a JSON object; nil means an empty one. Track returns the presence's
// phx_ref, which is valid until the next Update.
func (p *Presence) Track(c *channel.Channel, key string, meta any) (ref string, err error) {
	return p.TrackFor(c, c.Topic(), key, meta)
}

// Update replaces the meta that the channel tracks under the key. It returns the new phx_ref. To
// modify a part of the meta, use [Change].
func (p *Presence) Update(c *channel.Channel, key string, meta any) (ref string, err error) {
	return p.UpdateFor(c, c.Topic(), key, meta)
}

// Untrack removes the presence that the channel tracks under the key, if any.
func (p *Presence) Untrack(c *channel.Channel, key string) { p.UntrackFor(c, c.Topic(), key) }

// TrackFor is like Track, for any owner and topic.
func (p *Presence) TrackFor(o Owner, topic, key string, meta any) (ref string, err error) {
	body, err := encodeMeta(meta)
	if err == nil {
		ref, err = p.shard(topic).track(o, topic, validKey(key), body)
	}
	err = wrap("track", topic, key, err)
	p.notifyTracked("track", topic, key, err)
	return ref, err
}

// UpdateFor is like Update, for any owner and topic.
func (p *Presence) UpdateFor(o Owner, topic, key string, meta any) (ref string, err error) {
	body, err := encodeMeta(meta)
	if err == nil {
		ref, err = p.shard(topic).update(o, topic, validKey(key), body, nil)
	}
	err = wrap("update", topic, key, err)
	p.notifyTracked("update", topic, key, err)
	return ref, err
}

// UntrackFor is like Untrack, for any owner and topic.
func (p *Presence) UntrackFor(o Owner, topic, key string) {
	p.shard(topic).untrack(o, topic, validKey(key))
	p.notifyTracked("untrack", topic, key, nil)
}

// UntrackAll removes everything that the owner tracks, on all topics.
func (p *Presence) UntrackAll(o Owner) {
	for _, s := range p.shards {
		s.untrackAll(o)
	}
}

// Change modifies the meta that the channel tracks under the key. f receives the decoded current
// meta. If the meta was changed concurrently, f is called again with a new value. If M is a map, it
// contains phx_ref, which f cannot change.
func Change[M any](p *Presence, c *channel.Channel, key string, f func(meta *M)) (ref string, err error) {
	return ChangeFor(p, c, c.Topic(), key, f)
}

// ChangeFor is like Change, for any owner and topic.
func ChangeFor[M any](p *Presence, o Owner, topic, key string, f func(meta *M)) (ref string, err error) {
	ref, err = changeMeta(p, o, topic, key, f)
	p.notifyTracked("update", topic, key, err)
	return ref, err
}

func changeMeta[M any](p *Presence, o Owner, topic, key string, f func(meta *M)) (ref string, err error) {
	s, valid := p.shard(topic), validKey(key)
	for {
		e := s.tracked(o, topic, valid)
		if e == nil {
			return "", wrap("change", topic, key, ErrNotTracked)
		}
		var v M
		var body string
		if err = exactjson.Unmarshal(e.appendMeta(nil), &v); err == nil {
			f(&v)
			body, err = encodeMeta(v)
		}
		if err == nil {
			ref, err = s.update(o, topic, valid, body, e)
		}
		if err != errChanged {
			return ref, wrap("change", topic, key, err)
		}
	}
}

// List returns who is present on a topic, on all nodes.
func (p *Presence) List(topic string) State {
	state := listOf(p.shard(topic).all(topic))
	p.fetch(topic, &state)
	return state
}

// Page returns a part of List, for topics with thousands of keys: at most limit keys after cursor,
// and the cursor of the next page. The first page has the cursor "". The next cursor is "" after
// the last page.
//
// A key that is present during the whole iteration appears exactly once, whatever else joins and
// leaves. A cursor is valid on this node only; on another node the iteration starts again.
func (p *Presence) Page(topic, cursor string, limit int) (page State, next string) {
	s := p.shard(topic)
	after := s.seqOf(cursor)
	s.read(topic, func(r *room) { page, after = r.page(after, limit) })
	p.fetch(topic, &page)
	if page.Len() == 0 || after == 0 {
		return page, ""
	}
	return page, s.cursor(after)
}

// Get returns the entry of a key on a topic, on all nodes.
func (p *Presence) Get(topic, key string) (Entry, bool) {
	key = validKey(key)
	var state State
	p.shard(topic).read(topic, func(r *room) {
		if m, ok := r.keys.get(key); ok {
			state.set(key, m.public())
		}
	})
	p.fetch(topic, &state)
	return state.Get(key)
}

// Count returns the number of keys present on a topic, on all nodes.
func (p *Presence) Count(topic string) (n int) {
	p.shard(topic).read(topic, func(r *room) { n = r.keys.len() })
	return n
}

// Online returns those of the keys that are present on any topic, on any node. The first call scans
// all topics to build an index, which uses some memory for each key from then on.
func (p *Presence) Online(keys ...string) (online []string) {
	valid := make([]string, len(keys))
	for i, key := range keys {
		valid[i] = validKey(key)
	}
	yes := make([]bool, len(keys))
	for _, s := range p.shards {
		s.isOnline(valid, yes)
	}
	for i, key := range keys {
		if yes[i] {
			online = append(online, key)
		}
	}
	return online
}

// Push sends the state of the channel's topic to its client, as presence_state. A client needs it
// once after every join.
func (p *Presence) Push(c *channel.Channel) error {
	return c.Push(EventState, p.payload(c.Topic()))
}

// payload returns the payload of presence_state for a topic.
func (p *Presence) payload(topic string) serializer.Payload {
	if p.cfg.Fetch != nil {
		state := p.List(topic)
		return encoded(state.appendJSON(nil))
	}
	return p.shard(topic).encodedState(topic)
}

// encoded returns the payload for valid JSON, without validating it again.
func encoded(raw []byte) (p serializer.Payload) {
	if err := p.UnmarshalJSON(raw); err != nil {
		panic(err) // UnmarshalJSON of a Payload never fails
	}
	return p
}

func wrap(verb, topic, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("presence: %s %q on %s: %w", verb, key, topic, err)
}

// validKey returns the key as it is sent on the wire, which must be UTF-8.
func validKey(key string) string { return strings.ToValidUTF8(key, "\uFFFD") }
