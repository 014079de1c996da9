package natsengine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/pubsub"
	"bennu.example/will"
)

const (
	// willTimeout bounds one request about wills.
	willTimeout = 2 * time.Second
	// willMarker is how long the stream keeps the marker of an entry that was removed.
	willMarker = time.Minute
)

var errNoWills = errors.New("natsengine: the store of wills is not connected")

// wills implements will.Table by a stream, which has the newest message of each subject: an entry,
// or a lease. A message is published only if the last one of its subject has the sequence number
// that was read, which is a compare-and-swap. It has a connection of its own, which runs with the
// adapter, and follows the stream to know which entries are due.
type wills struct {
	backend  *backend // owned by the goroutine of run
	prefix   string   // of the subjects
	stream   string
	replicas int
	ping     time.Duration
	logger   zerolog.Logger
	store    will.Store
	wanted   atomic.Bool // Engine.Wills or Engine.Once was called
	once     *onceStore  // which uses the same connection

	mu      sync.Mutex
	js      nats.JetStreamContext // nil while not connected
	entries map[string]*willIndex // by subject
	leases  map[string]*willLease // by subject
	clock   serverClock
}

// willIndex is what is known of an entry.
type willIndex struct {
	seq   uint64
	key   string
	at    time.Time
	nodes []string
}

// willValue is an entry in the stream.
type willValue struct {
	Key   string          `json:"key"`
	At    int64           `json:"at,omitempty"` // in milliseconds since 1970
	Nodes []string        `json:"nodes,omitempty"`
	Value json.RawMessage `json:"value"`
}

// willLease is a lease in the stream.
type willLease struct {
	Node string `json:"node"`
	End  int64  `json:"end"` // in milliseconds since 1970

	seq uint64
}

func newWills(b *backend, cfg Config, ping time.Duration, logger *zerolog.Logger) *wills {
	own := *b // it counts its own attempts to connect
	w := &wills{
		backend: &own, prefix: b.prefix + ".w.", stream: streamName(b.prefix) + "-wills", replicas: max(cfg.Replicas, 1),
		ping: ping, logger: logger.With().Str("part", "wills").Logger(),
	}
	w.store = will.NewStore(w, 0)
	w.once = newOnceStore(w, b.prefix)
	return w
}

// Wills returns the store for socket.Config.Wills. Every call returns the same store. It needs
// JetStream and a nats-server of version 2.11 or newer. It has a connection of its own while
// PubSub.Run runs with the engine's Adapter.
func (e *Engine) Wills() will.Store {
	e.wills.wanted.Store(true)
	return e.wills.store
}

// adapter is the broker, which runs together with the wills.
type adapter struct {
	*broker.Broker

	wills *wills
}

func (a adapter) Run(ctx context.Context, in pubsub.Inbox) error {
	if !a.wills.wanted.Load() {
		return a.Broker.Run(ctx, in)
	}
	return a.RunBeside(ctx, in, func(ctx context.Context) {
		broker.Reconnect(ctx, func() (bool, error) { return a.wills.session(ctx) }, a.wills.failed)
	})
}

func (w *wills) failed(reason error, warn bool) {
	level := zerolog.DebugLevel
	if warn {
		level = zerolog.WarnLevel
	}
	w.logger.WithLevel(level).Err(broker.Redact(reason, w.backend.secrets)).Msg("store of wills and Once unavailable")
}

// session makes one connection and uses it until it ends.
func (w *wills) session(ctx context.Context) (connected bool, err error) {
	c, err := w.backend.connect(ctx, receiver{
		message: func(*nats.Msg) {}, gap: func(error) {}, pathChanged: func(error) {},
	})
	if err != nil {
		return false, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, c.cut)() // no call of the client blocks any longer
	js, err := c.nc.JetStream(nats.MaxWait(willTimeout))
	if err != nil {
		return false, err
	}
	if err := w.prepare(js); err != nil {
		return false, err
	}
	w.mu.Lock()
	w.entries, w.leases, w.clock = make(map[string]*willIndex), make(map[string]*willLease), serverClock{}
	w.mu.Unlock()
	gap := make(chan error, 1)
	seen := make(chan uint64, 1)
	sub, err := js.Subscribe(w.prefix+">", func(m *nats.Msg) { w.follow(m, seen) },
		nats.OrderedConsumer(), nats.DeliverLastPerSubject(), nats.BindStream(w.stream))
	if err != nil {
		return false, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends
	seq, err := w.measure(js)
	for begun := time.Now(); err == nil; { // until the index is complete
		select {
		case at := <-seen:
			if at < seq {
				continue
			}
			if w.once.wanted.Load() {
				if err := w.once.open(ctx, c, js); err != nil {
					return false, err
				}
			}
			return true, w.serve(ctx, c, js, gap)
		case err = <-c.Lost():
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(max(w.backend.timeout-time.Since(begun), 0)):
			err = fmt.Errorf("the stream was not read within %v", w.backend.timeout)
		}
	}
	return false, err
}

// serve uses a connection until it is lost or ctx ends.
func (w *wills) serve(ctx context.Context, c *conn, js nats.JetStreamContext, gap <-chan error) error {
	w.mu.Lock()
	w.js = js
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.js = nil
		w.mu.Unlock()
	}()
	timer := time.NewTimer(w.ping)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if _, err := w.measure(js); err != nil {
				return err
			}
			if _, now, err := w.connection(ctx); err == nil {
				w.once.sweep(now)
			}
			timer.Reset(w.ping)
		case err := <-gap:
			return err
		case err := <-c.Lost():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// prepare makes the stream if there is none.
func (w *wills) prepare(js nats.JetStreamContext) error {
	return ensureLast(js, w.stream, w.prefix, w.replicas)
}

// ensureLast makes a stream that has the newest message of each subject, if there is none.
func ensureLast(js nats.JetStreamContext, stream, prefix string, replicas int) error {
	info, err := js.StreamInfo(stream)
	if errors.Is(err, nats.ErrStreamNotFound) {
		info, err = js.AddStream(&nats.StreamConfig{
			Name: stream, Subjects: []string{prefix + ">"}, MaxMsgsPerSubject: 1, AllowMsgTTL: true,
			Replicas: replicas, Discard: nats.DiscardNew, DenyDelete: true,
		})
	}
	if err != nil {
		return err
	}
	if cfg := info.Config; cfg.MaxMsgsPerSubject != 1 || !slices.Equal(cfg.Subjects, []string{prefix + ">"}) {
		return fmt.Errorf("%w: %s", errNotOurs, stream)
	}
	return nil
}

// measure measures the server's clock by a message, and returns its sequence number.
func (w *wills) measure(js nats.JetStreamContext) (uint64, error) {
	sent := time.Now()
	ack, err := js.Publish(w.prefix+"t", nil)
	if err != nil {
		return 0, err
	}
	within := time.Since(sent)
	m, err := js.GetLastMsg(w.stream, w.prefix+"t")
	if err != nil {
		return 0, err
	}
	if m.Sequence != ack.Sequence {
		return ack.Sequence, nil // another node has replaced it
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock.measured(m.Time, sent, within)
	return ack.Sequence, nil
}

// follow notes a message of the stream.
func (w *wills) follow(m *nats.Msg, seen chan uint64) {
	meta, err := m.Metadata()
	if err != nil {
		return
	}
	w.note(m.Subject, m.Data, meta.Sequence.Stream)
	for { // the newest one counts
		select {
		case seen <- meta.Sequence.Stream:
			return
		default:
		}
		select {
		case <-seen:
		default:
		}
	}
}

// note notes the newest message of a subject.
func (w *wills) note(subject string, data []byte, seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name := subject[len(w.prefix):]; len(name) > 2 && name[0] == 'e' {
		if old := w.entries[subject]; old != nil && old.seq >= seq {
			return
		}
		var v willValue
		if len(data) == 0 || json.Unmarshal(data, &v) != nil {
			delete(w.entries, subject)
			return
		}
		i := &willIndex{seq: seq, key: v.Key, nodes: v.Nodes}
		if v.At != 0 {
			i.at = time.UnixMilli(v.At)
		}
		w.entries[subject] = i
	} else if len(name) > 2 && name[0] == 'l' {
		if old := w.leases[subject]; old != nil && old.seq >= seq {
			return
		}
		l := willLease{seq: seq}
		if len(data) == 0 || json.Unmarshal(data, &l) != nil {
			delete(w.leases, subject)
			return
		}
		w.leases[subject] = &l
	}
}

func (w *wills) entry(key string) string  { return w.prefix + "e." + token(key) }
func (w *wills) lease(node string) string { return w.prefix + "l." + token(node) }

// connection returns the present connection, and the time of the server.
func (w *wills) connection(ctx context.Context) (nats.JetStreamContext, time.Time, error) {
	if err := ctx.Err(); err != nil {
		return nil, time.Time{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.js == nil || len(w.clock.samples) == 0 {
		return nil, time.Time{}, errNoWills
	}
	return w.js, w.clock.now(), nil
}

// last returns the newest message of a subject. Without one, its sequence number is zero.
func (w *wills) last(ctx context.Context, subject string) (data []byte, seq uint64, now time.Time, err error) {
	js, now, err := w.connection(ctx)
	if err != nil {
		return nil, 0, now, err
	}
	m, err := js.GetLastMsg(w.stream, subject)
	switch {
	case errors.Is(err, nats.ErrMsgNotFound):
		return nil, 0, now, nil
	case err != nil:
		return nil, 0, now, w.wrap(err)
	}
	return m.Data, m.Sequence, now, nil
}

// replace publishes a message if the newest one of its subject has a sequence number. Without data
// it is a marker, which the stream removes.
func (w *wills) replace(ctx context.Context, subject string, data []byte, seq uint64) (bool, error) {
	js, _, err := w.connection(ctx)
	if err != nil {
		return false, err
	}
	opts := []nats.PubOpt{nats.ExpectLastSequencePerSubject(seq), nats.RetryAttempts(0)}
	if len(data) == 0 {
		opts = append(opts, nats.MsgTTL(willMarker))
	}
	ack, err := js.Publish(subject, data, opts...)
	var refused *nats.APIError
	if errors.As(err, &refused) && refused.ErrorCode == codeWrongLast {
		return false, nil
	}
	if err != nil {
		return false, w.wrap(err)
	}
	w.note(subject, data, ack.Sequence)
	return true, nil
}

func (w *wills) wrap(err error) error {
	return broker.Redact(fmt.Errorf("natsengine: wills: %w", err), w.backend.secrets)
}

// Get is part of will.Table.
func (w *wills) Get(ctx context.Context, key string) (e will.Entry, err error) {
	data, seq, now, err := w.last(ctx, w.entry(key))
	if err != nil {
		return e, err
	}
	e.Now = now
	if seq > 0 {
		e.Version = strconv.FormatUint(seq, 10)
	}
	var v willValue
	if len(data) > 0 {
		if err := json.Unmarshal(data, &v); err != nil {
			return e, w.wrap(err)
		}
		e.Value = bytes.Clone(v.Value)
	}
	return e, nil
}

// Swap is part of will.Table.
func (w *wills) Swap(ctx context.Context, key, version string, e will.Entry) (bool, error) {
	var seq uint64
	if version != "" {
		var err error
		if seq, err = strconv.ParseUint(version, 10, 64); err != nil {
			return false, w.wrap(err)
		}
	}
	var data []byte
	if len(e.Value) > 0 {
		v := willValue{Key: key, Nodes: e.Nodes, Value: e.Value}
		if !e.At.IsZero() {
			v.At = e.At.UnixMilli()
		}
		var err error
		if data, err = json.Marshal(v); err != nil {
			return false, w.wrap(err)
		}
	}
	return w.replace(ctx, w.entry(key), data, seq)
}

// Due is part of will.Table.
func (w *wills) Due(ctx context.Context, most int) ([]string, error) {
	_, now, err := w.connection(ctx)
	return w.keys(most, func(i *willIndex) bool { return !i.at.IsZero() && !i.at.After(now) }), err
}

// OfNode is part of will.Table.
func (w *wills) OfNode(ctx context.Context, node string, most int) ([]string, error) {
	_, _, err := w.connection(ctx)
	return w.keys(most, func(i *willIndex) bool { return slices.Contains(i.nodes, node) }), err
}

// keys returns the keys of at most some entries.
func (w *wills) keys(most int, selected func(i *willIndex) bool) (keys []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.entries {
		if len(keys) == most {
			break
		}
		if selected(i) {
			keys = append(keys, i.key)
		}
	}
	return keys
}

// getLease returns the lease of a node, which may have none, and its sequence number.
func (w *wills) getLease(ctx context.Context, node string) (l willLease, seq uint64, now time.Time, err error) {
	data, seq, now, err := w.last(ctx, w.lease(node))
	if err == nil && len(data) > 0 {
		if err = json.Unmarshal(data, &l); err != nil {
			err = w.wrap(err)
		}
	}
	return l, seq, now, err
}

// Lease is part of will.Table.
func (w *wills) Lease(ctx context.Context, node string, d time.Duration) (kept bool, err error) {
	for {
		l, seq, now, err := w.getLease(ctx, node)
		if err != nil {
			return false, err
		}
		kept = l.End > now.UnixMilli()
		if d <= 0 && !kept {
			return false, nil
		}
		data, err := json.Marshal(willLease{Node: node, End: now.Add(max(d, 0)).UnixMilli()})
		if err != nil {
			return false, w.wrap(err)
		}
		if done, err := w.replace(ctx, w.lease(node), data, seq); done || err != nil {
			return kept && done, err
		}
	}
}

// Ended is part of will.Table. A node that has entries but no lease counts as one whose lease has
// just ended.
func (w *wills) Ended(ctx context.Context) ([]will.Lease, error) {
	_, now, err := w.connection(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []string
	w.mu.Lock()
	for _, l := range w.leases {
		if l.End <= now.UnixMilli() {
			nodes = append(nodes, l.Node)
		}
	}
	for _, i := range w.entries {
		for _, node := range i.nodes {
			if w.leases[w.lease(node)] == nil {
				nodes = append(nodes, node)
			}
		}
	}
	w.mu.Unlock()
	slices.Sort(nodes)
	var ended []will.Lease
	for _, node := range slices.Compact(nodes) {
		l, _, now, err := w.getLease(ctx, node) // what is known may be old
		switch {
		case err != nil:
			return ended, err
		case l.Node == "":
			ended = append(ended, will.Lease{Node: node, End: now})
		case l.End <= now.UnixMilli():
			ended = append(ended, will.Lease{Node: node, End: time.UnixMilli(l.End)})
		}
	}
	return ended, nil
}

// Drop is part of will.Table.
func (w *wills) Drop(ctx context.Context, node string) error {
	l, seq, now, err := w.getLease(ctx, node)
	if err != nil || l.Node == "" || l.End > now.UnixMilli() {
		return err
	}
	_, err = w.replace(ctx, w.lease(node), nil, seq) // if it fails, the node has a new lease
	return err
}
