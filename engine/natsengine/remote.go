package natsengine

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/internal/mailbox"
	"bennu.example/logging"
)

const (
	defaultPing  = 5 * time.Second
	defaultQueue = 8 << 20
)

// remote is the part of the history and of the store of objects that connects to JetStream. It has
// one stream and one connection. Run owns the connection. One of its goroutines hands requests to
// the client, and another looks after the stream and the subscriptions. The client's reading
// goroutine handles the answers and the feed. Calls of the Inbox pass through a mailbox.
//
// Its owner sets the fields that differ after init.
type remote struct {
	backend  *backend
	prefix   string // of the subjects
	replies  string // the subjects for answers begin with it
	replicas int    // as configured
	queued   int    // the bound of the mailbox, in bytes
	timeout  time.Duration
	ping     time.Duration
	logger   zerolog.Logger

	what    string // names it in messages
	stream  string
	probes  string                                         // the subject of probes, which is in the stream
	feeds   string                                         // begins the subjects of the feed
	ensure  func(ctx context.Context) (streamState, error) // creates the stream, or corrects its configuration
	fed     func(name string, m *nats.Msg)                 // receives the feed of a topic, by its token
	deliver func(c call)                                   // makes a call of the Inbox
	gapped  func(reason error)                             // calls the Inbox's function for gaps

	in    mailbox.Mailbox[call] // makes the calls of the Inbox and of the watches
	reads chan struct{}         // has an element for each request for records that runs
	wake  chan struct{}         // has room for one signal to the goroutine that sends
	stir  chan struct{}         // has room for one signal to the goroutine that looks after the stream

	mu        sync.Mutex
	began     bool
	open      bool // Run was called and has not ended
	before    bool // it was usable on an earlier connection, or is
	ready     bool // connected, and the stream can be used
	longest   int  // the largest message that the server accepts
	queue     []*request
	control   []*request
	calls     map[string]*request // by token: sent, and not answered yet
	last      uint64              // number of the last token
	appends   int                 // appends that wait or were sent
	appending int                 // their bytes
	watched   map[string]*watch   // by the token of the topic
	changed   map[string]struct{} // tokens whose subscription must be looked at
	need      limits              // what the rules of all appends need
	doubts    uint64              // how often the stream may have lost messages that were stored
	state     streamState
	changes   chan struct{} // closed when state has changed
	missed    error         // a gap that did not fit into the mailbox
	health    history.Health
}

// watch is a watched topic.
type watch struct {
	topic     string
	ready     func(error)
	failed    bool             // ready was called with an error, and not without one since
	beginning history.Position // of the history: the last one that was returned as the top
}

func (l *remote) init(b *backend, cfg Config, part string) {
	own := *b // it counts its own attempts to connect
	l.backend, l.prefix, l.replies = &own, b.prefix, b.prefix+".i."+strings.ToLower(rand.Text())
	l.replicas, l.queued = cfg.Replicas, cmp.Or(cfg.Queue, defaultQueue)
	l.timeout, l.ping = b.timeout, cmp.Or(cfg.Ping, defaultPing)
	l.logger = cmp.Or(cfg.Logger, logging.Default()).With().Str("part", part).Logger()
	l.reads = make(chan struct{}, maxReads)
	l.wake, l.stir = make(chan struct{}, 1), make(chan struct{}, 1)
	l.longest = 1 << 20
	l.calls, l.watched, l.changed = make(map[string]*request), make(map[string]*watch), make(map[string]struct{})
	l.changes = make(chan struct{})
	l.health.Err = errNotRunning
	l.in.Init(l.queued, l.call)
}

// checkedRecently is how long the state of the stream is good enough to answer that a position
// belongs to another one.
const checkedRecently = time.Second

// wrap adds what failed to an error.
func (l *remote) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return broker.Redact(fmt.Errorf("natsengine: %s: %w", what, err), l.backend.secrets)
}

// known waits until the stream is known and has the needed limits, and returns its state.
func (l *remote) known(ctx context.Context, need limits) (streamState, error) {
	for {
		l.mu.Lock()
		s, changes := l.state, l.changes
		if s.reached(need) {
			l.mu.Unlock()
			return s, nil
		}
		if need.count > l.need.count || need.age > l.need.age {
			l.need.count, l.need.age = max(need.count, l.need.count), max(need.age, l.need.age)
			l.checkSoon()
		}
		open, reason := l.open, l.health.Err
		l.mu.Unlock()
		if !open {
			return s, unavailable(errNotRunning)
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return s, unavailable(cmp.Or(reason, ctx.Err()))
		}
	}
}

// confirm returns the state of the stream as its leader knows it.
func (l *remote) confirm(ctx context.Context) (streamState, error) {
	for {
		l.mu.Lock()
		s, changes := l.state, l.changes
		if time.Since(s.checked) < checkedRecently {
			l.mu.Unlock()
			return s, nil
		}
		l.checkSoon()
		reason := l.health.Err
		l.mu.Unlock()
		select {
		case <-changes:
		case <-ctx.Done():
			return s, unavailable(cmp.Or(reason, ctx.Err()))
		}
	}
}

// checkSoon requests a look at the stream. The caller must hold mu.
func (l *remote) checkSoon() {
	l.state.checked = time.Time{}
	signal(l.stir)
}

// Watch is part of history.Log and of state.Store.
func (l *remote) Watch(topic string, ready func(error)) {
	name := token(topic)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched[name] = &watch{topic: topic, ready: ready}
	l.changed[name] = struct{}{}
	signal(l.stir)
}

// Unwatch is part of history.Log and of state.Store.
func (l *remote) Unwatch(topic string) {
	name := token(topic)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watched, name)
	l.changed[name] = struct{}{}
	signal(l.stir)
}

// Health is part of history.Log and of state.Store.
func (l *remote) Health() history.Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.health
	h.Queued = l.appending
	return h
}

// request sends a request to JetStream and decodes its answer. The caller must look at the error in
// the answer.
func (l *remote) request(ctx context.Context, operation string, body, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	answers, err := l.do(ctx, &request{subject: "$JS.API." + operation + "." + l.stream, data: data, control: true})
	if err != nil {
		return err
	}
	if answers[0].Header.Get(statusHeader) == noResponders {
		return errNoJetStream
	}
	d := json.NewDecoder(bytes.NewReader(answers[0].Data))
	d.UseNumber()
	if err := d.Decode(answer); err != nil {
		return fmt.Errorf("a malformed answer to %s: %w", operation, err)
	}
	return nil
}

// streamRequest is request for the configuration and state of the stream.
func (l *remote) streamRequest(ctx context.Context, operation string, body any) (streamInfo, error) {
	var info streamInfo
	if err := l.request(ctx, "STREAM."+operation, body, &info); err != nil {
		return info, err
	}
	if info.Error != nil {
		if hasCode(info.Error, codeNotEnabled, codeNotForAccount) {
			return info, fmt.Errorf("%w: %w", errNoJetStream, info.Error)
		}
		return info, fmt.Errorf("stream %s: %w", l.stream, info.Error)
	}
	return info, nil
}

// parseAck parses the answer to a message that was to be stored. An error says that it was not. It
// wraps history.ErrUnavailable, ErrFull or ErrTooLarge.
func (l *remote) parseAck(m *nats.Msg) (ack, error) {
	var a ack
	if m.Header.Get(statusHeader) == noResponders {
		return a, unavailable(errNoJetStream)
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("%w: a malformed answer: %w", history.ErrUncertain, err)
	}
	switch {
	case a.Error == nil && a.Stream == l.stream && a.Seq > 0:
		return a, nil
	case a.Error == nil:
		return a, fmt.Errorf("%w: stored by stream %q", history.ErrUncertain, a.Stream)
	case hasCode(a.Error, codeMessageTooLarge, codeHeaderTooLarge):
		return a, fmt.Errorf("%w: %w", history.ErrTooLarge, a.Error)
	case hasCode(a.Error, codeAccountResources, codeResources, codeMemory, codeStorage, codeStoreFailed,
		codeTooManyRequests):
		return a, fmt.Errorf("%w: %w", history.ErrFull, a.Error)
	}
	return a, unavailable(a.Error)
}

// store sends a message to the stream until it is stored or refused.
func (l *remote) store(ctx context.Context, r *request) (ack, error) {
	r.stores = true
	r.again = r.again || r.header != nil // with an ID it is not stored twice
	for {
		answers, err := l.do(ctx, r)
		if err != nil {
			return ack{}, err
		}
		a, err := l.parseAck(answers[0])
		if !hasCode(err, codeDuplicateRunning) {
			return a, err
		}
		if broker.Sleep(ctx, busyDelay); ctx.Err() != nil {
			return a, fmt.Errorf("%w: %w", history.ErrUncertain, err)
		}
		r = &request{subject: r.subject, data: r.data, header: r.header, stores: true, again: r.again}
	}
}
