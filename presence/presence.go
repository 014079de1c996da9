package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"bennu.example/channel"
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
	// returned: to keep it, Clone it.
	OnDiff func(topic string, d Diff, now State)

	// Logger is told what goes wrong. Nil is silent.
	Logger *zerolog.Logger
}

// Owner is what a presence belongs to and ends with. A *channel.Channel is one. Owners are told apart by ==.
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

// New returns a Presence that broadcasts its diffs through ps. A nil config is the zero Config.
func New(ps *pubsub.PubSub, cfg *Config) *Presence {
	p := &Presence{ps: ps, log: zerolog.Nop()}
	if cfg != nil {
		p.cfg = *cfg
	}
	if p.cfg.Logger != nil {
		p.log = *p.cfg.Logger
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.shards = []*shard{newShard(p)}
	return p
}

// Close stops the Presence: nothing is tracked and broadcast any more. It waits for callbacks that run, until ctx ends.
func (p *Presence) Close(ctx context.Context) error {
	for _, s := range p.shards {
		s.close()
	}
	p.cancel()
	done := make(chan struct{})
	go func() { p.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("presence: close: %w", ctx.Err())
	}
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
		if err = json.Unmarshal(e.appendMeta(nil), &v); err == nil {
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
	state := p.shard(topic).list(topic)
	p.fetch(topic, &state)
	return state
}

// Get is what is known of one key on a topic, on all nodes.
func (p *Presence) Get(topic, key string) (Entry, bool) {
	state := p.shard(topic).get(topic, validKey(key))
	p.fetch(topic, &state)
	return state.Get(validKey(key))
}

// Count is how many keys are present on a topic, on all nodes.
func (p *Presence) Count(topic string) int { return p.shard(topic).count(topic) }

// Push pushes who is present on the channel's topic to its client, as presence_state. A client needs it once after every join.
func (p *Presence) Push(c *channel.Channel) error {
	return c.Push(EventState, encoded(p.payload(c.Topic())))
}

func (p *Presence) payload(topic string) []byte {
	if p.cfg.Fetch == nil {
		return p.shard(topic).appendState(nil, topic)
	}
	state := p.List(topic)
	return state.appendJSON(nil)
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
