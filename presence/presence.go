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
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

var (
	// ErrTracked is wrapped by the error of Track if the owner tracks this key on this topic already.
	ErrTracked = errors.New("already tracked")
	// ErrNotTracked is wrapped by the error of Update and Change if the owner does not track the key on the topic.
	ErrNotTracked = errors.New("not tracked")
	// ErrClosed is wrapped by the errors of Track, Update and Change after Close, and when the owner has ended.
	ErrClosed = errors.New("closed")
)

// Config says how a Presence behaves. The zero Config is Phoenix's behaviour.
type Config struct {
	// Fetch returns what is to stand beside the metas of these keys, by key: values that encode as objects, like {"user": {…}}. A
	// key may be left out. It is called by List, Get and Push, on the caller's goroutine, and once for every diff. If it fails or
	// panics, that is logged and the metas go out by themselves. Its context ends after ten seconds, or at Close.
	Fetch func(ctx context.Context, topic string, keys []string) (map[string]any, error)

	// OnDiff is called after each diff was broadcast, on every node, with who is there now. That state changes when OnDiff has
	// returned: to keep it, Clone it. If it panics, that is logged.
	OnDiff func(topic string, d Diff, now State)

	// Grace is how long a presence outlives the channel that tracked it, unless its client left or the server stopped it. If the same
	// key is tracked on the topic meanwhile, there is neither a leave nor a join, and if the meta differs, an update. (If that is on
	// another node, the new meta comes first and the old one goes then.) 0: not at all, as in Phoenix.
	Grace time.Duration

	// Window is how long the changes of a topic with at least WindowFrom keys are collected and told as one diff; what came and went
	// meanwhile is not told. 0: every change is told at once, as in Phoenix.
	Window     time.Duration
	WindowFrom int

	// Name tells several Presences of one cluster apart, as each has presences of its own. Empty: "presence".
	Name string

	// Node is this node's name, if it has one that it keeps when it starts again. Then the others take the presences of its former life
	// away as soon as they hear from it, and not only after Down. Empty: the adapter's name for it.
	Node string

	// Period is how often it is checked who lives and what is missing. 0: 1.5 s.
	Period time.Duration
	// Delay is the least time between two messages to the other nodes about what is new. What is new after some quiet is told at
	// once. 0: 100 ms.
	Delay time.Duration
	// Silence is how many periods may pass without a message to the others: after one more, they get a sign of life. 0: 5, so that two of
	// them may be lost. (Phoenix: 10, so that none may.)
	Silence int
	// Down is after how much silence of a node its presences leave. They come back as soon as it is heard again. 0: 20 periods, 30 s.
	Down time.Duration
	// Permdown is after how much silence everything about a node is forgotten. 0: 20 minutes, or twice Down if that is longer.
	Permdown time.Duration
	// Shards is the number of replicas that share the topics; it must be the same on all nodes. 0: 1.
	Shards int

	// KeepOnClose has Close not say goodbye to the other nodes: they keep what was tracked here until Down, so that clients that come back
	// there within that time have not left meanwhile. Close the Presence before the sockets then: what they track ends with them.
	KeepOnClose bool

	// Logger is told what goes wrong. Nil is silent. It is called on many goroutines: a panic in its writer or hooks may end the program.
	Logger *zerolog.Logger
}

// Owner is what a presence belongs to and ends with. A *channel.Channel is one. Owners are told apart by ==; one that cannot be compared
// tracks nothing.
type Owner interface {
	// OnEnd has f called once at the owner's end. It reports false if the owner has ended already; f is not called then.
	OnEnd(f func()) bool
}

// Presence knows who is on which topic.
type Presence struct {
	ps     *pubsub.PubSub
	cfg    Config
	log    zerolog.Logger
	ctx    context.Context // Fetch's
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines that broadcast; added to under a shard's lock while it is open
	shards []*shard
}

// New returns a Presence that broadcasts its diffs through ps, and, if that has an adapter, shares what it knows with the Presences of the
// same name on other nodes. A nil config is the zero Config. New panics if the config cannot work: Down must be at least two periods, and
// less than Permdown.
func New(ps *pubsub.PubSub, cfg *Config) *Presence {
	p := &Presence{ps: ps, log: zerolog.Nop()}
	if cfg != nil {
		p.cfg = *cfg
	}
	if p.cfg.Logger != nil {
		p.log = *p.cfg.Logger
	}
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

// complete puts in what is not given.
func (c *Config) complete() {
	c.Name = cmp.Or(c.Name, "presence")
	c.Period = cmp.Or(c.Period, 1500*time.Millisecond)
	c.Delay = cmp.Or(c.Delay, 100*time.Millisecond)
	c.Silence = cmp.Or(c.Silence, 5)
	c.Down = cmp.Or(c.Down, 20*c.Period)
	c.Permdown = cmp.Or(c.Permdown, max(20*time.Minute, 2*c.Down))
	c.Shards = cmp.Or(c.Shards, 1)
	if c.Period < 0 || c.Delay < 0 || c.Silence < 0 || c.Grace < 0 || c.Window < 0 || c.Shards < 0 {
		panic("presence: a negative value in the config")
	}
	if c.Down < 2*c.Period || c.Permdown <= c.Down {
		panic(fmt.Sprintf("presence: Down (%v) must be at least two periods (%v), and less than Permdown (%v)", c.Down, c.Period, c.Permdown))
	}
}

// newVsn is a number that is larger than those of former lives, as far as the clock can tell, and that no other node has.
func newVsn() uint64 {
	return uint64(time.Now().UnixMilli())<<22 | rand.Uint64N(1<<22)
}

// Close stops the Presence, and tells the other nodes, whose clients see its presences leave. Nothing is tracked and broadcast any more
// on this one. Close waits for callbacks that run, until ctx ends. Another call does nothing.
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

// Track counts the channel's client among those present on its topic, under a key, until the channel ends. The meta is a value that
// encodes as a JSON object; nil is an empty one. Track returns the presence's phx_ref, which holds until the next Update.
func (p *Presence) Track(c *channel.Channel, key string, meta any) (ref string, err error) {
	return p.TrackFor(c, c.Topic(), key, meta)
}

// Update replaces the meta of what the channel tracks under the key. To change a part of it see [Change].
func (p *Presence) Update(c *channel.Channel, key string, meta any) (ref string, err error) {
	return p.UpdateFor(c, c.Topic(), key, meta)
}

// Untrack ends what the channel tracks under the key, if it does.
func (p *Presence) Untrack(c *channel.Channel, key string) { p.UntrackFor(c, c.Topic(), key) }

// TrackFor is Track for any owner and any topic.
func (p *Presence) TrackFor(o Owner, topic, key string, meta any) (ref string, err error) {
	body, err := encodeMeta(meta)
	if err == nil {
		ref, err = p.shard(topic).track(o, topic, validKey(key), body)
	}
	return ref, wrap("track", topic, key, err)
}

// UpdateFor is Update for any owner and any topic.
func (p *Presence) UpdateFor(o Owner, topic, key string, meta any) (ref string, err error) {
	body, err := encodeMeta(meta)
	if err == nil {
		ref, err = p.shard(topic).update(o, topic, validKey(key), body, nil)
	}
	return ref, wrap("update", topic, key, err)
}

// UntrackFor is Untrack for any owner and any topic.
func (p *Presence) UntrackFor(o Owner, topic, key string) {
	p.shard(topic).untrack(o, topic, validKey(key))
}

// UntrackAll ends all that the owner tracks, on all topics.
func (p *Presence) UntrackAll(o Owner) {
	for _, s := range p.shards {
		s.untrackAll(o)
	}
}

// Change has f change the meta of what the channel tracks under the key. F gets the current meta, decoded, and is called again, with
// another value, if the meta was changed meanwhile. With a map, f sees phx_ref too, but cannot change it.
func Change[M any](p *Presence, c *channel.Channel, key string, f func(meta *M)) (ref string, err error) {
	return ChangeFor(p, c, c.Topic(), key, f)
}

// ChangeFor is Change for any owner and any topic.
func ChangeFor[M any](p *Presence, o Owner, topic, key string, f func(meta *M)) (ref string, err error) {
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

// List is who is present on a topic, on all nodes.
func (p *Presence) List(topic string) State {
	state := listOf(p.shard(topic).all(topic))
	p.fetch(topic, &state)
	return state
}

// Page is a part of List, for topics of thousands: at most limit keys, those after cursor, and the next page's cursor, which is "" if there is
// none. The first page's is "". Who is present from the first page to the last is on one of them once, whoever comes and goes
// meanwhile. A cursor holds on this node: elsewhere, it begins again.
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

// Get is what is known of one key on a topic, on all nodes.
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

// Count is how many keys are present on a topic, on all nodes.
func (p *Presence) Count(topic string) (n int) {
	p.shard(topic).read(topic, func(r *room) { n = r.keys.len() })
	return n
}

// Online reports which of the keys are present anywhere: on any topic, on any node. The first call goes through all topics and makes an
// index, which costs some memory for each key from then on.
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

// Push pushes who is present on the channel's topic to its client, as presence_state. A client needs it once after every join.
func (p *Presence) Push(c *channel.Channel) error {
	return c.Push(EventState, encoded(p.payload(c.Topic())))
}

func (p *Presence) payload(topic string) []byte {
	if p.cfg.Fetch != nil {
		state := p.List(topic)
		return state.appendJSON(nil)
	}
	all := p.shard(topic).all(topic)
	return appendList(make([]byte, 0, sizeOf(all)), all)
}

// encoded is the payload of a JSON text, without another look at it.
func encoded(raw []byte) (p serializer.Payload) {
	if err := p.UnmarshalJSON(raw); err != nil {
		panic(err) // it has none
	}
	return p
}

func wrap(verb, topic, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("presence: %s %q on %s: %w", verb, key, topic, err)
}

// validKey is the key as it is on the wire.
func validKey(key string) string { return strings.ToValidUTF8(key, "\uFFFD") }
