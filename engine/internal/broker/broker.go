package broker

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"bennu.example/internal/mailbox"
)

const (
	defaultQueue   = 8 << 20
	defaultTimeout = 5 * time.Second
	defaultPing    = 5 * time.Second

	// overhead is what a waiting message costs besides its bytes.
	overhead = 64
)

var (
	errNotRunning = errors.New("not running")
	errFull       = errors.New("the queue of what waits for the engine is full")
	errTooLong    = errors.New("longer than the engine takes")
	errRunTwice   = errors.New("run was called before")
)

// Config of a broker.
type Config struct {
	Name    string        // begins this node's name; "": "node"
	Queue   int           // bound of what waits for the engine, and of what came from it and waits for this node, in bytes each; 0: 8 MiB
	Timeout time.Duration // within which the engine must answer; 0: 5 s
	Ping    time.Duration // how long the engine is left alone before it is asked whether it is there; 0: 5 s
	Echo    bool          // the engine delivers to a node what the node published itself
	Secrets []string      // that no error, log line or Health shows
	Logger  *zerolog.Logger
}

// Inbox is where a relay brings what other nodes published: one at a time, in order, and on a goroutine of its own.
type Inbox struct {
	// Deliver takes what AppendBinary gave to Publish at another node. An error says that it is not that; then it is skipped.
	Deliver func(data []byte) error
	// Gap tells that something may have been missed until now.
	Gap func(reason error)
}

// Health is pubsub.Health, which says what the fields are.
type Health struct {
	Connected bool
	Since     time.Time
	Err       error
	Queued    int
	Dropped   uint64
	Gaps      uint64
}

// Relay is one node's place at an engine. Its methods may be called from any goroutine and, but for Run, neither wait nor call anything of the
// engine but Channel.
type Relay struct {
	cfg    Config
	engine Engine
	log    zerolog.Logger
	id     uuid.UUID
	node   string
	wake   chan struct{} // has room for one: there is something for Run's goroutine

	mu      sync.Mutex
	began   bool                // Run was called
	open    bool                // and has not ended
	want    map[string]struct{} // topics with subscribers here
	pending map[string]struct{} // those of which the engine may not know; nil while there is no connection
	queue   []Message           // that wait
	used    int                 // bytes of these and of those being sent
	longest int                 // that the engine takes; 0: unknown, or any
	health  Health

	// Owned by Run's goroutine.
	epoch     uint32    // connections so far
	connected bool      // the engine answered before
	lost      bool      // messages may have been lost, which other nodes do not know yet
	sending   []Message // taken from the queue
	sent      int       // of these

	// What comes in passes a queue.
	in       mailbox.Mailbox[delivery]
	inbox    Inbox
	missedMu sync.Mutex
	missed   error // a gap for which the queue has no room yet

	probeMu sync.Mutex
	probe   probing

	// Owned by the queue's function.
	seen    map[uuid.UUID]connection // of other nodes that had more than one
	garbage bool                     // some was logged
}

// New makes a broker. It holds nothing that needs an end unless Run is called.
func New(engine Engine, cfg Config) *Relay {
	cfg.Queue = cmp.Or(cfg.Queue, defaultQueue)
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	cfg.Ping = cmp.Or(cfg.Ping, defaultPing)
	id := uuid.New()
	r := &Relay{
		cfg:    cfg,
		engine: engine,
		log:    zerolog.Nop(),
		id:     id,
		node:   cmp.Or(cfg.Name, "node") + "-" + id.String(),
		wake:   make(chan struct{}, 1),
		want:   make(map[string]struct{}),
		seen:   make(map[uuid.UUID]connection),
		health: Health{Err: errNotRunning},
		probe:  probing{peers: make(map[uuid.UUID]*peer)},
	}
	if cfg.Logger != nil {
		r.log = cfg.Logger.With().Str("node", r.node).Logger()
	}
	r.in.Init(cfg.Queue, r.work)
	return r
}

// Node is this node's name.
func (r *Relay) Node() string { return r.node }

// Publish queues body for a node, or for all others that subscribed to the topic if node is "". Size is about how long it is.
func (r *Relay) Publish(node, topic string, body encoding.BinaryAppender, size int) error {
	data, err := body.AppendBinary(newEnvelope(kindMessage, r.id, size))
	if err != nil {
		return err
	}
	channel := r.engine.Channel(Topic, topic)
	if node != "" {
		channel = r.engine.Channel(Node, node)
	}
	return r.put(Message{channel, data})
}

func (r *Relay) put(m Message) error {
	size := m.size()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.open:
		return errNotRunning
	case !r.fits(m):
		r.health.Dropped++
		return fmt.Errorf("%d bytes: %w (%d)", len(m.Data), errTooLong, r.longest)
	case r.used+size > r.cfg.Queue:
		r.health.Dropped++
		return errFull
	}
	r.used += size
	r.queue = append(r.queue, m)
	r.poke()
	return nil
}

// fits tells whether the engine takes a message that long, as far as is known. The caller holds mu.
func (r *Relay) fits(m Message) bool { return r.longest <= 0 || len(m.Data) <= r.longest }

// Subscribe has messages of a topic delivered, Unsubscribe no longer.
func (r *Relay) Subscribe(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want[topic] = struct{}{}
	r.change(topic)
}

// Unsubscribe is the opposite of Subscribe.
func (r *Relay) Unsubscribe(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.want, topic)
	r.change(topic)
}

// change notes that the engine is to be told of a topic. The caller holds mu.
func (r *Relay) change(topic string) {
	if r.pending != nil { // else all that is wanted is told once there is a connection
		r.pending[topic] = struct{}{}
		r.poke()
	}
}

func (r *Relay) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Health is how things stand.
func (r *Relay) Health() Health {
	r.mu.Lock()
	h := r.health
	h.Queued = r.used
	r.mu.Unlock()
	if h.Connected && h.Err == nil {
		h.Err = r.silence()
	}
	return h
}

// state notes whether the engine answers, and if it does not, why.
func (r *Relay) state(connected bool, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.health.Connected != connected {
		r.health.Connected, r.health.Since = connected, time.Now()
	}
	r.health.Err = why
}
