package natsengine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/objectplan"
	"bennu.example/history"
	"bennu.example/state"
)

// objects implements state.Store by a stream of JetStream. Each object has a log there, whose
// subject is that of the object: its messages are the writes. A write is stored if the last message
// of the log is still the one that the writer has seen, so the writes of all nodes have one order,
// and each node can decide by its own copy of the object whether a condition holds. A read first
// brings the copy up to date.
//
// A snapshot replaces old messages of a log; see compact. Items that have expired are deleted by a
// write like others; see Expire. The messages are republished to the nodes that watch the object.
type objects struct {
	remote

	inbox state.Inbox // set by run
	copies
	tidying tidying
	expiry  expiry
	count   objectCount

	rehearsed uint64 // remote.doubts when the permissions were checked

	clockMu sync.Mutex
	clock   serverClock
}

func newObjects(b *backend, cfg Config) *objects {
	s := &objects{}
	s.remote.init(b, cfg, "objects")
	s.what, s.stream = "object store", streamName(b.prefix)+"-objects"
	s.probes, s.feeds = s.prefix+".d.probe", s.prefix+".s."
	s.ensure, s.fed, s.deliver = s.ensureStream, s.feed, func(c call) { s.inbox.Change(*c.change) }
	s.gapped = func(reason error) { s.inbox.Uncertain(reason) }
	s.copies.init()
	s.tidying.init()
	s.count.init(cfg.MaxObjects)
	s.open = true // requests wait for Run, which a program starts with its server
	return s
}

// State returns the store of shared objects for state.New. Every call returns the same store. It
// needs JetStream and a nats-server of version 2.11 or newer. It has a connection of its own while
// Objects.Run runs.
func (e *Engine) State() state.Store { return e.objects }

// Run is part of state.Store.
func (s *objects) Run(ctx context.Context, in state.Inbox) error {
	inner, cancel := context.WithCancel(ctx)
	var tidy sync.WaitGroup
	err := s.run(ctx, func() {
		s.inbox = in
		tidy.Go(func() { s.tidy(inner) })
	})
	cancel()
	tidy.Wait()
	return err
}

// The subjects of an object's log, and of the parts of its snapshots.
func (s *objects) logOf(object string) string   { return s.prefix + ".o." + token(object) }
func (s *objects) partsOf(object string) string { return s.prefix + ".p." + token(object) }

// now returns the time of the server.
func (s *objects) now() time.Time {
	s.clockMu.Lock()
	defer s.clockMu.Unlock()
	return s.clock.now()
}

// baseOf returns the position of objects that do not exist.
func baseOf(st *streamState) history.Position {
	p, _ := history.NewPosition(st.epoch, 0, beginningTag) // the parts are valid
	return p
}

// ensureStream creates the stream, or corrects its configuration, and returns its state.
func (s *objects) ensureStream(ctx context.Context) (streamState, error) {
	sent := time.Now()
	info, err := s.streamRequest(ctx, "INFO", struct{}{})
	within := time.Since(sent)
	if hasCode(err, codeStreamNotFound) {
		cfg := map[string]any{"name": s.stream, "num_replicas": 1, "storage": "file", "max_bytes": -1}
		s.configure(cfg, newNonce())
		info, err = s.streamRequest(ctx, "CREATE", cfg)
		if hasCode(err, codeNameExists) { // another node was faster
			err = nil
		}
		if err == nil {
			sent = time.Now()
			info, err = s.streamRequest(ctx, "INFO", struct{}{})
			within = time.Since(sent)
		}
	}
	if err != nil {
		return streamState{}, err
	}
	s.clockMu.Lock()
	s.clock.measured(info.Now, sent, within)
	s.clockMu.Unlock()
	meta, _ := info.Config["metadata"].(map[string]any)
	nonce, _ := meta[metaNonce].(string)
	if nonce == "" && !s.hasSubjects(info.Config) {
		return streamState{}, fmt.Errorf("%w: stream %s has other subjects than %s", errNotOurs, s.stream, s.logOf("*"))
	}
	if nonce == "" {
		nonce = newNonce()
	}
	before, created := encode(info.Config), info.Created
	createdAt, _ := time.Parse(time.RFC3339Nano, created) // an error leaves the zero time
	if s.configure(info.Config, nonce); encode(info.Config) != before {
		if info, err = s.streamRequest(ctx, "UPDATE", info.Config); err != nil {
			return streamState{}, err
		}
	}
	if err := s.rehearse(ctx); err != nil {
		return streamState{}, err
	}
	return streamState{
		epoch: epoch(s.stream, created, nonce), leader: info.Cluster.Leader,
		replicas: integer(info.Config["num_replicas"]), checked: time.Now(), created: createdAt,
	}, nil
}

// rehearse makes requests that are rare once for each connection. So a missing permission is an
// error of the connection, and not one that appears later.
func (s *objects) rehearse(ctx context.Context) error {
	doubts := s.doubted()
	if s.rehearsed == doubts {
		return nil
	}
	if err := s.purge(ctx, s.probes, 1); err != nil {
		return err
	}
	r, err := s.leader(getRequest{LastFor: s.probes}, true)
	if err == nil {
		_, _, err = s.leaderAnswered(ctx, r)
	}
	if err == nil {
		s.rehearsed = doubts
	}
	return err
}

// configure sets what the store needs in a configuration. The rest belongs to the operator.
func (s *objects) configure(cfg map[string]any, nonce string) {
	cfg["subjects"] = []any{s.prefix + ".o.*", s.prefix + ".p.*", s.prefix + ".d.>"}
	cfg["retention"], cfg["discard"] = "limits", "new" // no write is lost when the stream is full
	cfg["max_msgs"], cfg["max_msg_size"] = jsonNumber(-1), jsonNumber(-1)
	cfg["max_msgs_per_subject"], cfg["max_age"] = jsonNumber(-1), jsonNumber(0)
	cfg["republish"] = map[string]any{"src": s.prefix + ".o.*", "dest": s.feeds + "{{wildcard(1)}}"}
	cfg["allow_direct"], cfg["allow_rollup_hdrs"], cfg["allow_msg_ttl"] = true, true, true
	cfg["deny_delete"], cfg["deny_purge"] = true, false
	delete(cfg, "no_ack")
	if s.replicas > 0 {
		cfg["num_replicas"] = jsonNumber(int64(s.replicas))
	}
	meta, _ := cfg["metadata"].(map[string]any)
	if meta == nil {
		meta = make(map[string]any)
		cfg["metadata"] = meta
	}
	meta[metaNonce] = nonce
}

// hasSubjects reports whether a configuration has the subjects of the store.
func (s *objects) hasSubjects(cfg map[string]any) bool {
	subjects, _ := cfg["subjects"].([]any)
	for _, v := range subjects {
		text, _ := v.(string)
		rest, ok := strings.CutPrefix(text, s.prefix)
		if !ok || !strings.HasPrefix(rest, ".o.") && !strings.HasPrefix(rest, ".p.") && !strings.HasPrefix(rest, ".d.") {
			return false
		}
	}
	return len(subjects) > 0
}

// fail returns the error of a method. An outcome that is not known is unavailable, too.
func (s *objects) fail(what, object string, err error) error {
	var conflict *state.ConflictError
	var limit *state.LimitError
	switch {
	case errors.As(err, &conflict), errors.As(err, &limit), errors.Is(err, state.ErrNotFound),
		errors.Is(err, state.ErrExists), errors.Is(err, state.ErrInvalid):
		return err
	case errors.Is(err, history.ErrTooLarge):
		s.mu.Lock()
		defer s.mu.Unlock()
		return &state.LimitError{Err: state.ErrTooLarge, What: "write", Max: s.longest}
	case !errors.Is(err, history.ErrUnavailable):
		err = unavailable(err)
	}
	return s.wrap(fmt.Sprintf("%s %q", what, object), err)
}

// Apply is part of state.Store.
func (s *objects) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	a, err := s.applyOps(ctx, object, ops, tx)
	s.mu.Lock()
	if err != nil {
		s.health.Failed++
	} else {
		s.health.Appended++
	}
	s.mu.Unlock()
	if err != nil {
		return state.Applied{}, s.fail("write", object, err)
	}
	return a, nil
}

func (s *objects) applyOps(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	if err := state.Check(ops, tx); err != nil {
		return state.Applied{}, err
	}
	tx.Limits = tx.Limits.WithDefaults()
	c, st, err := s.hold(ctx, object)
	if err != nil {
		return state.Applied{}, err
	}
	defer s.release(c)
	w := &writer{s: s, c: c, st: st, base: baseOf(&st)}
	for {
		var known state.Applied
		e, err := w.commit(ctx, func(now time.Time) (e *entry, final bool, err error) {
			e, known, final, err = w.plan(ops, &tx, now)
			if e != nil && e.creates() {
				if err := s.admit(ctx); err != nil {
					return nil, false, err
				}
			}
			return e, final, err
		})
		switch {
		case err != nil:
			return state.Applied{}, err
		case e == nil:
			return known, nil
		case e.kind == kindChange:
			return state.Applied{
				Revs: e.revs, Prev: e.previous(w.base), Position: e.position(), Items: e.items,
			}, nil
		}
		// The object had expired, and is removed. Now the write itself.
	}
}

// plan returns the message of a write. Without one it returns the result, which is final if it
// holds although the copy may be old.
func (w *writer) plan(ops []state.Op, tx *state.Tx, now time.Time) (e *entry, a state.Applied, final bool, err error) {
	r := w.c.copy
	if r.exists && r.isGone(now) {
		return w.gone(state.ReasonExpired, now), a, false, nil
	}
	if known := r.ids[tx.ID]; known != nil && tx.ID != "" {
		a = known.applied
		a.Repeated = true
		return nil, a, true, nil
	}
	switch {
	case r.exists && tx.Create == state.ModeNew:
		return nil, a, false, state.ErrExists
	case !r.exists && tx.Create == state.ModeExisting:
		return nil, a, false, state.ErrNotFound
	}
	has := objectplan.Object{Rev: r.rev, Items: r.count, Bytes: r.bytes}
	p, err := objectplan.New(r, has, ops, tx, now)
	if err != nil {
		return nil, a, false, err
	}
	remembers := tx.ID != "" && r.remembersUnchanged(now)
	if len(p.Items) == 0 && (r.exists && !remembers || !r.exists && tx.Create != state.ModeNew) {
		a = state.Applied{Revs: p.Revs, Prev: w.base, Position: w.base}
		if r.exists {
			a.Prev, a.Position = r.top(), r.top()
		}
		return nil, a, false, nil
	}
	e = w.next(p.Items, now)
	e.keep, e.id, e.revs = tx.Limits.Changes, tx.ID, p.Revs
	if !r.exists && tx.TTL > 0 {
		e.expires = objectplan.After(now, tx.TTL)
	}
	return e, a, false, nil
}

// Read is part of state.Store.
func (s *objects) Read(
	ctx context.Context, object string, r state.Range, next string, limit int,
) (p state.Page, err error) {
	err = s.see(ctx, "read", object, func(o *replica, base history.Position, now time.Time) error {
		if p.Position = base; o != nil {
			p = o.read(r, next, limit, now)
		}
		return nil
	})
	return p, err
}

// Changes is part of state.Store.
func (s *objects) Changes(
	ctx context.Context, object string, since history.Position, r state.Range, limit int,
) (p state.Page, err error) {
	if since.IsZero() {
		return p, history.ErrPosition
	}
	var answer error
	err = s.see(ctx, "read the changes of", object, func(o *replica, base history.Position, now time.Time) error {
		switch {
		case o != nil:
			p, answer = o.changes(since, base, r, limit, now)
		case since == base:
			p.Position = base
		case since.Epoch() == base.Epoch():
			answer = history.ErrTag
		default:
			answer = history.ErrEpoch
		}
		return nil
	})
	if err == nil {
		err = answer
	}
	return p, err
}

// see calls f with an object as it is now, or with nil if there is none.
func (s *objects) see(
	ctx context.Context, what, object string, f func(o *replica, base history.Position, now time.Time) error,
) error {
	ctx, end := s.reading(ctx)
	defer end()
	c, st, err := s.hold(ctx, object)
	if err != nil {
		return s.fail(what, object, err)
	}
	defer s.release(c)
	if err := s.refresh(ctx, c, &st); err != nil {
		return s.fail(what, object, err)
	}
	o, now := c.copy, s.now()
	if o.isGone(now) {
		o = nil
	}
	return f(o, baseOf(&st), now)
}

// Tops is part of state.Store.
func (s *objects) Tops(ctx context.Context, names []string) ([]history.Position, error) {
	ctx, end := s.reading(ctx)
	defer end()
	st, err := s.known(ctx, limits{})
	if err != nil {
		return nil, s.fail("read the positions of", "", err)
	}
	subjects := make([]string, len(names))
	for i, name := range names {
		subjects[i] = s.logOf(name)
	}
	last := make(map[string]*entry, len(names))
	for from := 0; from < len(subjects); {
		to := s.chunk(subjects, from)
		if err := s.lastEntries(ctx, &st, subjects[from:to], last); err != nil {
			return nil, s.fail("read the positions of", names[from], err)
		}
		from = to
	}
	tops := make([]history.Position, len(names))
	now := s.now()
	for i := range names {
		tops[i] = baseOf(&st)
		if e := last[subjects[i]]; e != nil && e.kind == kindChange && !objectplan.IsDue(e.expires, now) {
			tops[i] = e.position()
		}
	}
	return tops, nil
}

// Watch is part of state.Store.
func (s *objects) Watch(object string, ready func(error)) {
	s.copies.watch(object, true)
	s.remote.Watch(object, ready)
}

// Unwatch is part of state.Store.
func (s *objects) Unwatch(object string) {
	s.remote.Unwatch(object)
	s.copies.watch(object, false)
}

// Remove is part of state.Store.
func (s *objects) Remove(ctx context.Context, object, id string) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	c, st, err := s.hold(ctx, object)
	if err != nil {
		return s.fail("remove", object, err)
	}
	defer s.release(c)
	w := &writer{s: s, c: c, st: st, base: baseOf(&st)}
	_, err = w.commit(ctx, func(now time.Time) (e *entry, final bool, err error) {
		if id != "" && c.copy.removals.has(id, now) {
			return nil, true, nil
		}
		if c.copy.isGone(now) {
			return nil, false, state.ErrNotFound
		}
		e = w.gone(state.ReasonRemoved, now)
		if id != "" {
			e.removals = e.removals.with(id, now)
		}
		return e, false, nil
	})
	if err != nil {
		return s.fail("remove", object, err)
	}
	return nil
}

// feed handles a message that the stream has stored and sent to the nodes that watch its object.
func (s *objects) feed(name string, m *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[name]
	if w == nil || s.state.epoch == "" || m.Header.Get(nats.JSStream) != s.stream {
		return
	}
	seq, err := headerNumber(m, nats.JSSequence)
	if err != nil {
		return
	}
	e, ok := parseEntry(seq, m.Data)
	if !ok {
		return
	}
	c := e.change(w.topic, baseOf(&s.state))
	if c.Prev == c.Position {
		return // nothing but the ID of a write
	}
	s.expects(w.topic, e.earliest())
	s.enqueue(call{change: &c}, len(w.topic)+len(m.Data)+callOverhead)
}
