package redisengine

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/internal/mailbox"
)

// remote is the part of the log and of the store of objects that connects to Redis: it sends their
// requests, and receives what is published about watched topics. Its owner sets the fields that
// differ after init.
type remote struct {
	backend *backend // owned by the goroutine of Run
	prefix  string
	id      string // of this node
	cfg     logConfig
	log     zerolog.Logger

	what     string                                      // names it in messages
	space    string                                      // the part of the key of the base epoch
	channels string                                      // begins the channels of the feed
	rehearse func(ctx context.Context, c *logConn) error // checks the permissions
	fed      func(f fed)                                 // receives what was published about a watched topic
	gapped   func(reason error)

	writes, reads *lane
	cluster       atomic.Bool // the server is in a Redis Cluster

	feed   mailbox.Mailbox[fed]
	events mailbox.Mailbox[func()]
	wake   chan struct{} // has room for one signal to the goroutine of Run
	probed chan string   // has room for the last probe that was received

	mu      sync.Mutex
	began   bool
	watches map[string]*watch
	pending map[string]struct{} // topics whose subscription has to change; nil while not connected
	missed  error               // a gap that waits until the feed has room
	skipped bool                // a malformed message was logged
	health  history.Health

	// These fields are owned by the goroutine of Run.
	connected bool
	warned    bool // that CONFIG is forbidden
}

// logConfig is the part of Config that the log needs.
type logConfig struct {
	timeout, ping time.Duration
	queue, wait   int
	maxObjects    int
	secrets       []string
}

// watch is the feed of a topic.
type watch struct {
	topic string
	ready func(error)
	renew time.Time // when the topic's meta has to be renewed
	down  bool      // ready was called with an error since the last connection
}

func (l *remote) init(b *backend, prefix string, cfg logConfig, logger *zerolog.Logger) {
	l.backend, l.prefix, l.id, l.cfg, l.log = b, prefix, uuid.NewString(), cfg, *logger
	l.writes, l.reads = newLane(maxAppends, maxAppendBytes, true), newLane(maxReads, maxAppendBytes, false)
	l.wake, l.probed, l.watches = make(chan struct{}, 1), make(chan string, 1), make(map[string]*watch)
	l.health.Err = errLogNotRunning
	l.writes.replicas, l.writes.wait = cfg.wait, min(replicaWait, cfg.timeout/2)
	l.feed.Init(cfg.queue, l.deliverFed)
	l.events.Init(math.MaxInt, func(f func()) { f() })
}

var escaper = strings.NewReplacer("%", "%25", "}", "%7D")

// key begins the keys of a topic. A Redis Cluster places keys by what is in braces: there it is the
// same for all topics, so that one server has the whole history.
func (l *remote) key(kind, topic string) string {
	if l.cluster.Load() {
		return "{" + l.prefix + "}:" + kind + ":" + topic
	}
	return l.prefix + ":" + kind + ":{" + cmp.Or(escaper.Replace(topic), "%") + "}"
}

// base returns the key of the base epoch.
func (l *remote) base() string {
	if l.cluster.Load() {
		return "{" + l.prefix + "}:" + l.space
	}
	return l.prefix + ":" + l.space
}

// channel returns the channel of the feed of a topic.
func (l *remote) channel(topic string) string { return l.channels + topic }

// Health is part of history.Log and of state.Store.
func (l *remote) Health() history.Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.health
	h.Queued = l.writes.bytes()
	return h
}

// makeBase makes the base epoch, if there is none.
func (l *remote) makeBase(ctx context.Context) error {
	base := func() []string { return []string{l.base()} }
	return l.reads.do(ctx, &request{commands: []command{{"SET", base, []string{freshEpoch(), "NX"}}}})
}

// wrap adds what failed to an error.
func (l *remote) wrap(what, topic string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("redisengine: %s %q: %w", what, topic, broker.Redact(err, l.cfg.secrets))
}
