package redisengine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/history"
	"bennu.example/state"
)

const (
	// writeIDAge and maxWriteIDs bound the IDs of writes that an object remembers. A write that
	// changes nothing is remembered only if there are fewer than unchangedIDs.
	writeIDAge   = 10 * time.Minute
	maxWriteIDs  = 1000
	unchangedIDs = 250
	// tombstoneAge is how long a deletion is remembered.
	tombstoneAge = time.Hour
	// pageBytes are the bytes of keys and values after which a page ends, and maxPage bounds its
	// items.
	pageBytes = 64 << 10
	maxPage   = 1000
	// expireBatch bounds the items of one change by Expire, and dueBatch the objects of one request.
	expireBatch = 100
	dueBatch    = 100
	tagSize     = 4
)

// objects implements state.Store. Everything of an object changes in one script, at the time of
// Redis.
type objects struct {
	remote

	inbox        state.Inbox
	tombstoneAge time.Duration // how long a deletion is remembered
}

func newObjects(b *backend, prefix string, cfg logConfig, logger *zerolog.Logger) *objects {
	s := &objects{tombstoneAge: tombstoneAge}
	s.init(b, prefix, cfg, logger)
	s.what, s.space, s.channels = "object store", "o", prefix+":s:"
	s.rehearse, s.fed = s.rehearseScripts, s.deliver
	s.gapped = func(reason error) { s.inbox.Uncertain(reason) }
	s.writes.setOpen(true) // requests wait for Run, which a program starts with its server
	s.reads.setOpen(true)
	return s
}

// State returns the store of shared objects for state.New. Every call returns the same store. It
// has connections of its own while Objects.Run runs, and needs more permissions than the adapter:
// see the package documentation.
func (e *Engine) State() state.Store { return e.objects }

// Run is part of state.Store.
func (s *objects) Run(ctx context.Context, in state.Inbox) error {
	return s.run(ctx, func() { s.inbox = in })
}

// Watch is part of state.Store.
func (s *objects) Watch(object string, ready func(error)) { s.watch(object, ready) }

// Unwatch is part of state.Store.
func (s *objects) Unwatch(object string) { s.unwatch(object) }

// due returns the key of the deadlines of all objects.
func (s *objects) due() string { return s.base() + ":due" }

// number returns the key of the number of objects.
func (s *objects) number() string { return s.base() + ":n" }

// call returns a call of a script about an object.
func (s *objects) call(script *script, object string, args ...string) *request {
	return s.callIn(s.space, s.due, s.number, s.channel(object), script, object, args...)
}

// callIn returns a call of a script, with the kind of the object's keys, the keys of all deadlines
// and of the number of objects, and the channel.
func (s *objects) callIn(
	kind string, due, number func() string, channel string, script *script, object string, args ...string,
) *request {
	q := &request{script: script, size: len(object), args: append([]string{freshEpoch(), object, channel}, args...)}
	for _, text := range args {
		q.size += len(text)
	}
	q.keys = func() []string {
		key := s.key(kind, object)
		return []string{
			key + ":m", key + ":i", key + ":k", key + ":r", key + ":x", key + ":w", key + ":o",
			s.base(), due(), number(),
		}
	}
	return q
}

// do sends a request. A write whose outcome is not known is unavailable, too.
func (s *objects) do(ctx context.Context, what, object string, l *lane, q *request) error {
	err := l.do(ctx, q)
	if err != nil && !errors.Is(err, history.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	return s.wrap(what, object, err)
}

// malformedAnswer reports an answer that the scripts do not give.
func (s *objects) malformedAnswer(what, object string, err error) error {
	return s.wrap(what, object, fmt.Errorf("%w: %w", history.ErrUnavailable, errors.Join(errAnswer, err)))
}

// Apply is part of state.Store.
func (s *objects) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	a, err := s.apply(ctx, object, ops, tx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.health.Failed++
		return state.Applied{}, err
	}
	s.health.Appended++
	return a, nil
}

func (s *objects) apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	if err := state.Check(ops, tx); err != nil {
		return state.Applied{}, err
	}
	q := s.call(stateApplyScript, object, s.applyArgs(ops, tx, writeIDAge)...)
	if err := s.do(ctx, "write", object, s.writes, q); err != nil {
		return state.Applied{}, err
	}
	answer, err := texts(q.answers[0])
	if err != nil || len(answer) == 0 {
		return state.Applied{}, s.malformedAnswer("write", object, err)
	}
	switch answer[0] {
	case "not found":
		return state.Applied{}, state.ErrNotFound
	case "exists":
		return state.Applied{}, state.ErrExists
	case "quota":
		if len(answer) == 3 {
			limit, err := strconv.Atoi(answer[2])
			if err == nil {
				return state.Applied{}, &state.LimitError{Err: state.ErrQuota, What: answer[1], Max: limit}
			}
		}
	case "conflict":
		if c, err := parseConflict(answer, ops); err == nil {
			return state.Applied{}, c
		}
	case "ok", "again":
		a, err := parseApplied(answer, ops)
		if err == nil {
			return a, nil
		}
	}
	return state.Applied{}, s.malformedAnswer("write", object, nil)
}

// milliseconds returns a lifetime as text, rounded up.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Millisecond-1)/time.Millisecond), 10)
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return ""
}

// tags returns tags for n changes.
func tags(n int) string {
	var b strings.Builder
	b.Grow(n * tagSize)
	for range n {
		b.WriteString(history.NewTag())
	}
	return b.String()
}

func (s *objects) applyArgs(ops []state.Op, tx state.Tx, idAge time.Duration) []string {
	l := tx.Limits.WithDefaults()
	args := make([]string, 0, 14+8*len(ops))
	args = append(args, tx.ID, tx.Writer, string(tx.Create), milliseconds(tx.TTL),
		strconv.Itoa(l.Items), strconv.Itoa(l.Bytes), strconv.Itoa(l.Changes),
		milliseconds(s.tombstoneAge), milliseconds(idAge), strconv.Itoa(maxWriteIDs),
		strconv.Itoa(unchangedIDs), flag(s.cfg.wait > 0), tags(2*len(ops)+1), strconv.Itoa(s.cfg.maxObjects))
	for i := range ops {
		op := &ops[i]
		kind, condition, ttl := "+", "", ""
		switch {
		case op.Delete:
			kind = "-"
		case op.From != "":
			kind = "m"
		}
		if op.If != nil {
			condition = strconv.FormatUint(*op.If, 10)
		}
		if op.TTL != nil {
			ttl = milliseconds(*op.TTL)
		}
		args = append(args, op.Key, op.From, string(op.Value), kind, flag(op.Under), flag(op.Own), condition, ttl)
	}
	return args
}

// Read is part of state.Store.
func (s *objects) Read(ctx context.Context, object string, r state.Range, next string, limit int) (state.Page, error) {
	from, to := keyRange(r, next)
	q := s.call(stateReadScript, object, from, to, flag(r.Reverse), strconv.Itoa(min(max(limit, 0), maxPage)),
		strconv.Itoa(pageBytes))
	if err := s.do(ctx, "read", object, s.reads, q); err != nil {
		return state.Page{}, err
	}
	p, err := parsePage(q.answers[0])
	if err != nil {
		return state.Page{}, s.malformedAnswer("read", object, err)
	}
	return p, nil
}

// keyRange returns a range of keys as Redis has it.
func keyRange(r state.Range, next string) (from, to string) {
	from, to = "["+max(r.From, r.Prefix), "+"
	if r.Reverse && from == "[" {
		from = "(" // all but the empty key
	}
	switch {
	case r.Prefix != "" && (r.To == "" || r.Prefix+"\xff" < r.To): // no key has this byte
		to = "(" + r.Prefix + "\xff"
	case r.To != "":
		to = "(" + r.To
	}
	switch {
	case next == "":
	case r.Reverse:
		to = "[" + next
	default:
		from = "[" + max(next, from[1:])
	}
	return from, to
}

// Changes is part of state.Store.
func (s *objects) Changes(
	ctx context.Context, object string, since history.Position, r state.Range, limit int,
) (state.Page, error) {
	if since.IsZero() {
		return state.Page{}, history.ErrPosition
	}
	q := s.call(stateChangesScript, object, strconv.FormatUint(since.Offset(), 10),
		strconv.Itoa(min(max(limit, 0), maxPage)), strconv.Itoa(pageBytes))
	if err := s.do(ctx, "read the changes of", object, s.reads, q); err != nil {
		return state.Page{}, err
	}
	c, err := parseChanges(q.answers[0])
	if err != nil {
		return state.Page{}, s.malformedAnswer("read the changes of", object, err)
	}
	return c.after(since, r, limit)
}

// Tops is part of state.Store.
func (s *objects) Tops(ctx context.Context, names []string) ([]history.Position, error) {
	tops := make([]history.Position, 0, len(names))
	for begin := 0; begin < len(names); begin += maxTops {
		part := names[begin:min(begin+maxTops, len(names))]
		metas := func() []string {
			keys := make([]string, len(part), len(part)+1)
			for i, name := range part {
				keys[i] = s.key(s.space, name) + ":m"
			}
			return append(keys, s.base())
		}
		q := &request{commands: []command{
			{"SET", func() []string { return []string{s.base()} }, []string{freshEpoch(), "NX"}},
			{name: "TIME"}, {"MGET", metas, nil},
		}}
		if err := s.do(ctx, "read positions of", part[0], s.reads, q); err != nil {
			return nil, err
		}
		some, err := parseTops(q.answers[1:], len(part))
		if err != nil {
			return nil, s.malformedAnswer("read positions of", part[0], err)
		}
		tops = append(tops, some...)
	}
	return tops, nil
}

// Expire is part of state.Store. Objects are unlocked between two of its requests, so each deletion
// is decided by the script that makes it.
func (s *objects) Expire(ctx context.Context, limit int) (n int, err error) {
	for n < limit {
		q := &request{
			script: stateDueScript, keys: func() []string { return []string{s.due()} },
			args: []string{strconv.Itoa(min(dueBatch, limit-n))},
		}
		if err := s.do(ctx, "read what has expired", "", s.reads, q); err != nil {
			return n, err
		}
		due, err := texts(q.answers[0])
		if err != nil {
			return n, s.malformedAnswer("read what has expired", "", err)
		}
		if len(due) == 0 {
			return n, nil
		}
		before := n
		for _, object := range due {
			q := s.call(stateExpireScript, object, strconv.Itoa(min(expireBatch, max(limit-n, 1))), tags(expireBatch),
				milliseconds(s.tombstoneAge))
			if err := s.do(ctx, "expire", object, s.writes, q); err != nil {
				return n, err
			}
			done, err := q.answers[0].AsInt64()
			if err != nil {
				return n, s.malformedAnswer("expire", object, err)
			}
			n += int(done)
		}
		if n == before { // another node was faster
			return n, nil
		}
	}
	return n, nil
}

// Remove is part of state.Store.
func (s *objects) Remove(ctx context.Context, object, id string) error {
	q := s.remembersRemovals(s.call(stateRemoveScript, object, s.removeArgs(id)...), s.space, object)
	if err := s.do(ctx, "remove", object, s.writes, q); err != nil {
		return err
	}
	removed, err := q.answers[0].AsInt64()
	switch {
	case err != nil:
		return s.malformedAnswer("remove", object, err)
	case removed == 0:
		return state.ErrNotFound
	}
	return nil
}

// removeArgs returns the arguments of a removal with an ID, which may be empty.
func (s *objects) removeArgs(id string) []string {
	return []string{id, milliseconds(writeIDAge), strconv.Itoa(maxWriteIDs), flag(s.cfg.wait > 0)}
}

// remembersRemovals adds the keys that remember the IDs of removals of an object to a call.
func (s *objects) remembersRemovals(q *request, kind, object string) *request {
	keys := q.keys
	q.keys = func() []string { return append(keys(), s.key(kind, object)+":g", s.key(kind, object)+":l") }
	return q
}

// deliver feeds a change.
func (s *objects) deliver(f fed) {
	c, err := parseChange(f.data)
	if err != nil {
		s.malformed(err)
		return
	}
	c.Object = f.topic
	s.inbox.Change(c)
}

// rehearseScripts runs all scripts on an object of its own. So missing permissions are an error of
// the connection, and not of a write that is half done.
func (s *objects) rehearseScripts(ctx context.Context, c *logConn) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.timeout)
	defer cancel()
	b := c.appends.B
	due := func() string { return s.key("od", s.id) }
	number := func() string { return s.key("on", s.id) }
	call := func(script *script, args ...string) *request {
		return s.remembersRemovals(s.callIn("oc", due, number, s.probeChannel(), script, s.id, args...), "oc", s.id)
	}
	run := func(script *script, args ...string) rueidis.Completed {
		q := call(script, args...)
		return q.script.call(b(), true, q.keys(), q.args)
	}
	hour := time.Hour
	write := func(idAge time.Duration, ops ...state.Op) rueidis.Completed {
		tx := state.Tx{ID: "id", TTL: time.Minute, Limits: state.Limits{Changes: 1}}
		return run(stateApplyScript, s.applyArgs(ops, tx, idAge)...)
	}
	put := state.Op{Key: "k", Value: []byte("1"), TTL: &hour}
	under := state.Op{Key: "k", Value: []byte("2"), Under: true}
	commands := []rueidis.Completed{
		b().Arbitrary("SET", s.base(), freshEpoch(), "NX").Build(),
		write(time.Minute, put), write(time.Minute, put), // finds the ID
		write(0, under), write(0, state.Op{Key: "k", Delete: true, Under: true}), // forget the ID
		run(stateReadScript, "-", "+", "", "1", "1"), run(stateReadScript, "-", "+", "1", "1", "1"),
		run(stateChangesScript, "0", "10", "1000"), run(stateExpireScript, "1", tags(1), "0"),
		run(stateRemoveScript, s.removeArgs("id")...), stateDueScript.call(b(), true, []string{s.due()}, []string{"1"}),
		b().Arbitrary("MGET", s.base()).Build(), b().Arbitrary("TIME").Build(),
	}
	for _, key := range slices.Delete(call(nil).keys(), 7, 8) { // all but the base epoch
		commands = append(commands, b().Pexpire().Key(key).Milliseconds(1).Build()) // if a script has failed
	}
	return s.try(ctx, c, commands...)
}
