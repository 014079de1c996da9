package natsengine

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
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

	// appendTimeout bounds the wait of Append, and of Forget.
	appendTimeout = 2 * time.Second

	// busyDelay is the delay before an append is sent again whose ID is being stored.
	busyDelay = 10 * time.Millisecond
)

// historyLog implements history.Log by a stream of JetStream.
//
// It has a connection of its own: so it works without the adapter, and the many bytes of a recovery
// do not delay the messages of the adapter. Run owns the connection. One of its goroutines hands
// requests to the client, and another looks after the stream and the subscriptions. The client's
// reading goroutine handles the answers and the feed. Calls of the Inbox pass through a mailbox.
type historyLog struct {
	backend  *backend
	prefix   string // of the subjects
	stream   string
	replies  string // the subjects for answers begin with it
	replicas int
	maxBytes int64
	queued   int // the bound of the mailbox, in bytes
	timeout  time.Duration
	ping     time.Duration
	logger   zerolog.Logger

	in    mailbox.Mailbox[call] // makes the calls of inbox and of the watches
	inbox history.Inbox         // set by Run
	reads chan struct{}         // has an element for each request for records that runs
	wake  chan struct{}         // has room for one signal to the goroutine that sends
	stir  chan struct{}         // has room for one signal to the goroutine that looks after the stream

	mu        sync.Mutex
	began     bool
	open      bool // Run was called and has not ended
	before    bool // the log was usable on an earlier connection, or is
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
	beginning history.Position // the last one that was returned as the top
}

func newHistoryLog(b *backend, cfg Config) *historyLog {
	own := *b // it counts its own attempts to connect
	l := &historyLog{
		backend: &own, prefix: b.prefix, stream: streamName(b.prefix),
		replies:  b.prefix + ".i." + strings.ToLower(rand.Text()),
		replicas: cfg.Replicas, maxBytes: cfg.MaxBytes, queued: cmp.Or(cfg.Queue, defaultQueue),
		timeout: b.timeout, ping: cmp.Or(cfg.Ping, defaultPing),
		logger:  cmp.Or(cfg.Logger, logging.Default()).With().Str("part", "history").Logger(),
		reads:   make(chan struct{}, maxReads),
		wake:    make(chan struct{}, 1),
		stir:    make(chan struct{}, 1),
		longest: 1 << 20,
		calls:   make(map[string]*request),
		watched: make(map[string]*watch),
		changed: make(map[string]struct{}),
		need:    limits{count: leastCount + 1, age: leastAge},
		changes: make(chan struct{}),
		health:  history.Health{Err: errNotRunning},
	}
	l.in.Init(l.queued, l.call)
	return l
}

// subject returns the subject in the stream for the token of a topic.
func (l *historyLog) subject(token string) string { return l.prefix + ".h." + token }

// wrap returns err as the methods of the log return it.
func (l *historyLog) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return broker.Redact(fmt.Errorf("natsengine: %s: %w", what, err), l.backend.secrets)
}

// known waits until the stream is known and has the needed limits, and returns its state.
func (l *historyLog) known(ctx context.Context, need limits) (streamState, error) {
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

// checkedRecently is how long the state of the stream is good enough to answer that a position
// belongs to another one.
const checkedRecently = time.Second

// confirm returns the state of the stream as its leader knows it.
func (l *historyLog) confirm(ctx context.Context) (streamState, error) {
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
func (l *historyLog) checkSoon() {
	l.state.checked = time.Time{}
	signal(l.stir)
}

// Append is part of history.Log.
func (l *historyLog) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	r, stored, err := l.append(ctx, topic, r, k)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.health.Failed++
		return history.Record{}, l.wrap("append", err)
	}
	if stored {
		l.health.Appended++
	}
	return r, nil
}

// append returns the record. It reports false if another one with the ID was stored before.
func (l *historyLog) append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (_ history.Record, stored bool, err error) {
	if len(r.Event)+len(r.From) > maxTexts || len(r.ID) > maxID || len(r.Origin) > maxOrigin {
		return r, false, history.ErrTooLarge
	}
	k, _ = history.Rules{"*": k}.Rule("") // with the defaults
	s, err := l.known(ctx, limits{count: k.Count + 1, age: k.Age})
	if err != nil {
		return r, false, err
	}
	r.Time = time.UnixMilli(time.Now().UnixMilli())
	r.Position, r.Prev = history.Position{}, history.Position{}
	tag := history.NewTag()
	data := appendHead(make([]byte, 0, storedSize(&r)), kindRecord, k, s.epoch, tag)
	before := len(data)
	if data, err = r.AppendBinary(data); err != nil {
		return r, false, err
	}
	if r, err = history.ParseRecord(data[before:]); err != nil { // with the payload as it is stored
		return r, false, err
	}
	if len(r.Payload.Bytes()) > k.Bytes {
		return r, false, history.ErrTooLarge
	}
	name := token(topic)
	subject := l.subject(name)
	id := messageID(name, r.ID, 0)
	for {
		a, err := l.store(ctx, &request{subject: subject, data: data, header: id})
		if err != nil {
			return r, false, err
		}
		if !a.Duplicate {
			r.Position, err = l.position(a.Seq, tag)
			return r, true, err
		}
		first, ok, err := l.first(ctx, subject, r.ID, a.Seq, k)
		if err != nil {
			return r, false, err
		}
		if ok { // it may be this record, if it was sent twice
			return first, first.Position.Tag() == tag, nil
		}
		// The stream still knows the ID, but the topic no longer has the record.
		id = messageID(name, r.ID, a.Seq)
	}
}

// storedSize estimates the size of the stored form.
func storedSize(r *history.Record) int {
	const header = 64
	return header + len(r.Event) + len(r.ID) + len(r.From) + len(r.Origin) + len(r.Payload.Bytes())
}

// messageID returns the header by which the stream recognises a record that it has stored before.
// It returns nil without an ID. If the record before was removed, its sequence makes a new header,
// which is equal on all nodes.
func messageID(topic, id string, before uint64) nats.Header {
	if id == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(topic + " " + id + " " + strconv.FormatUint(before, 10)))
	return nats.Header{nats.MsgIdHdr: {base64.RawURLEncoding.EncodeToString(sum[:])}}
}

// store sends a message to the stream until it is stored or refused.
func (l *historyLog) store(ctx context.Context, r *request) (ack, error) {
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

// position returns the position of a record that was stored.
func (l *historyLog) position(seq uint64, tag string) (history.Position, error) {
	l.mu.Lock()
	epoch := l.state.epoch
	l.mu.Unlock()
	p, err := history.NewPosition(epoch, seq, tag)
	if err != nil {
		err = fmt.Errorf("%w: %w", history.ErrFull, err)
	}
	return p, err
}

// first returns the record of an ID, if the topic still has it.
func (l *historyLog) first(
	ctx context.Context, subject, id string, seq uint64, k history.Keep,
) (r history.Record, ok bool, err error) {
	l.mu.Lock()
	s := l.state
	l.mu.Unlock()
	p, err := l.get(ctx, getRequest{Seq: seq, NextFor: subject, Batch: 1}, s.epoch)
	if err != nil {
		return r, false, uncertain(err)
	}
	var m message
	if len(p.messages) > 0 && p.messages[0].seq == seq {
		m, ok = p.messages[0], p.pending < uint64(k.Count)
	} else if s.replicas > 1 {
		if m, ok, err = l.leaderGet(ctx, getRequest{Seq: seq}, s.epoch, false); err != nil {
			return r, false, uncertain(err)
		}
	}
	ok = ok && m.isRecord() && m.subject == subject && m.rec.ID == id && time.Since(m.at) < k.Age
	return m.rec, ok, nil
}

// uncertain is for a record that may have been stored.
func uncertain(err error) error { return fmt.Errorf("%w: %w", history.ErrUncertain, err) }

// Forget is part of history.Log. It stores a marker, with which the stream removes everything that
// it has of the topic, in one step.
func (l *historyLog) Forget(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	s, err := l.known(ctx, limits{})
	if err != nil {
		return l.wrap("forget", err)
	}
	_, err = l.store(ctx, &request{
		subject: l.subject(token(topic)), data: newMarker(kindForgotten, s.epoch), again: true,
		header: nats.Header{nats.MsgRollup: {nats.MsgRollupSubject}},
	})
	return l.wrap("forget", err)
}

// Watch is part of history.Log.
func (l *historyLog) Watch(topic string, ready func(error)) {
	name := token(topic)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched[name] = &watch{topic: topic, ready: ready}
	l.changed[name] = struct{}{}
	signal(l.stir)
}

// Unwatch is part of history.Log.
func (l *historyLog) Unwatch(topic string) {
	name := token(topic)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watched, name)
	l.changed[name] = struct{}{}
	signal(l.stir)
}

// Health is part of history.Log.
func (l *historyLog) Health() history.Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.health
	h.Queued = l.appending
	return h
}
