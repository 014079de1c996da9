package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/key"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// callback is the callback of a push.
type callback = func(s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error)

// push returns the callback for a push of a name.
func (h *handler) push(name string) callback {
	return func(s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
		reply, err := h.answer(name, s, ctx, c, p)
		var conflict *ConflictError
		if errors.As(err, &conflict) {
			err = h.hide(ctx, c, conflict)
		}
		if err != nil {
			return refused(c, err, name == pushBatch)
		}
		return reply, nil
	}
}

// refused returns the reply to a push that failed.
func refused(c *channel.Channel, err error, batch bool) (push.Reply, error) {
	if errors.Is(err, history.ErrUnavailable) {
		channelhost.Log(c, "store unavailable", err)
	}
	if payload, ok := errorReply(err, batch); ok {
		return push.Reply{Status: push.StatusError, Payload: payload}, nil
	}
	return push.NoReply, err
}

// answer handles a push.
func (h *handler) answer(
	name string, s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload,
) (push.Reply, error) {
	m, err := parseMembers(p)
	if err != nil {
		return push.NoReply, err
	}
	switch name {
	case pushRead:
		return h.readPage(&s.member, ctx, m)
	case pushQuery:
		return h.queryPage(&s.member, ctx, m)
	case pushRemove:
		return h.remove(ctx, c, m)
	}
	w := write{h: h, m: &s.member, c: c, topic: c.Topic(), writer: writerOf(ctx)}
	id, err := m.id()
	if err != nil {
		return push.NoReply, err
	}
	if w.first, err = m.firstSent(id); err != nil {
		return push.NoReply, err
	}
	if id != "" {
		w.id = writeID(ctx, id)
	}
	if name == pushBatch {
		return w.batch(ctx, m)
	}
	op, err := m.parseOp(name, h.kind)
	if err != nil {
		return push.NoReply, err
	}
	if err := w.add(op); err != nil {
		return push.NoReply, err
	}
	a, err := w.apply(ctx)
	if err != nil {
		return push.NoReply, err
	}
	text := []byte{'{'}
	if op.makes {
		text = serializer.AppendString(appendMember(text, "key"), w.keyOf(a, 0))
	}
	return ok(append(strconv.AppendUint(appendMember(text, "rev"), w.revOf(a, 0), 10), '}')), nil
}

// write is a push that writes, or a will.
type write struct {
	h        *handler
	m        *member          // nil for a will that runs
	c        *channel.Channel // nil for a will that runs
	topic    string
	writer   string            // the id of the client's connection
	id       string            // of the write; empty if it has none
	first    *history.Position // of a repeated write: see members.firstSent
	isWill   bool
	size     int // bytes of all values as they were pushed
	requests []request
	ops      []pending
	targets  []string        // of a tree: the keys that the client has named
	cleared  map[string]bool // of a tree: the keys above them, which must have no item
}

// request is one op as a client has pushed it, which may be several ops of the store.
type request struct {
	key        string // that the client has named
	parent     string // of an addition to a tree: the key above the one that was made
	makes      bool   // the server makes the key
	first, end int    // its part of the ops
}

// add adds an op that a client has pushed.
func (w *write) add(p pending) error {
	if most := w.limits().Value; len(p.raw) > most {
		return &LimitError{Err: ErrTooLarge, What: "value", Max: most}
	}
	w.size += len(p.raw)
	r := request{key: p.op.Key, makes: p.makes, first: len(w.ops)}
	switch {
	case w.h.kind.tree:
		if p.makes {
			r.parent = PathKey(p.op.Key)
		}
		if err := w.addTree(p); err != nil {
			return err
		}
	case p.makes && p.place == nil:
		p.op.Key = key.New()
		fallthrough
	default:
		w.ops = append(w.ops, p)
	}
	r.end = len(w.ops)
	w.requests = append(w.requests, r)
	return nil
}

// addBatch adds the ops of a batch or a will.
func (w *write) addBatch(m members) error {
	var list []members
	if found, err := m.take("ops", &list); err != nil || !found || len(list) == 0 {
		return invalid("ops")
	}
	if err := m.rest(); err != nil {
		return err
	}
	if most := w.limits().Batch; len(list) > most {
		return &LimitError{Err: ErrTooLarge, What: "batch", Max: most}
	}
	for _, one := range list {
		var name string
		if found, err := one.take("op", &name); err != nil || !found {
			return invalid("op")
		}
		own := w.isWill
		if w.isWill {
			if _, err := one.take("own", &own); err != nil {
				return err
			}
		}
		op, err := one.parseOp(name, w.h.kind)
		if err != nil {
			return err
		}
		if err := w.add(op); err != nil {
			return err
		}
		if own {
			if err := w.own(); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch handles a push of several ops.
func (w *write) batch(ctx context.Context, m members) (push.Reply, error) {
	if err := w.addBatch(m); err != nil {
		return push.NoReply, err
	}
	a, err := w.apply(ctx)
	if err != nil {
		return push.NoReply, err
	}
	text := append(appendMember([]byte{'{'}, "revs"), '[')
	for i := range w.requests {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendUint(text, w.revOf(a, i), 10)
	}
	text = append(appendMember(append(text, ']'), "keys"), '[')
	for i := range w.requests {
		if i > 0 {
			text = append(text, ',')
		}
		text = serializer.AppendString(text, w.keyOf(a, i))
	}
	return ok(append(text, ']', '}')), nil
}

func (w *write) limits() Limits {
	l := w.h.cfg.Limits.WithDefaults()
	if w.h.kind.document {
		l.Batch = 1
	}
	return l
}

// revOf returns the revision of a request.
func (w *write) revOf(a Applied, i int) (rev uint64) {
	for _, r := range a.Revs[w.requests[i].first:w.requests[i].end] {
		rev = max(rev, r)
	}
	return rev
}

// keyOf returns the key of a request. A repeated write has the keys that were made for the first
// one.
func (w *write) keyOf(a Applied, i int) string {
	r, rev := &w.requests[i], w.revOf(a, i)
	for j := range a.Items {
		if !r.makes || a.Items[j].Rev != rev {
			continue
		}
		if w.h.kind.tree {
			return wireKey(childOf(r.parent, a.Items[j].Key))
		}
		return a.Items[j].Key
	}
	return r.key
}

const (
	maxTries = 8 // of a write that depends on the current value
	maxPause = 20 * time.Millisecond
)

// apply checks the ops and applies them.
func (w *write) apply(ctx context.Context) (Applied, error) {
	cost, err := w.check(ctx)
	if err != nil {
		return Applied{}, err
	}
	if w.m != nil {
		if err := w.takeRate(cost); err != nil {
			return Applied{}, err
		}
	}
	waiting, cancel := w.h.o.patient(ctx)
	defer cancel()
	for try := 1; ; try++ {
		if forgotten, err := w.mayBeForgotten(waiting); err != nil {
			return Applied{}, err
		} else if forgotten {
			return w.repeated(waiting, errForgotten)
		}
		ops, depends, err := w.resolve(ctx, waiting)
		if err != nil {
			return w.repeated(waiting, err)
		}
		a, err := w.h.o.Apply(waiting, w.topic, ops, w.tx())
		if err == nil && len(a.Revs) != len(ops) { // the first write with this id was another one
			return Applied{}, invalid("$id")
		}
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			return a, storeError(waiting, err)
		}
		if op := &ops[conflict.Op]; op.Under && op.If != nil && conflict.Rev == *op.If { // the path has others below
			return Applied{}, invalid("if")
		}
		if !depends[conflict.Op] || try == maxTries {
			return a, err
		}
		select { // another write came between
		case <-time.After(rand.N(maxPause)):
		case <-waiting.Done():
			return Applied{}, err
		}
	}
}

// storeError returns the error of a store that did not answer in time as history.ErrUnavailable.
func storeError(waiting context.Context, err error) error {
	if err != nil && waiting.Err() != nil && errors.Is(err, waiting.Err()) {
		return unavailable(waiting)
	}
	return err
}

// check checks what does not depend on the current values, and asks Config.Allow about it. It
// returns what the write costs.
func (w *write) check(ctx context.Context) (float64, error) {
	if w.hasOverlaps() {
		return 0, invalid("key")
	}
	for i := range w.ops {
		p := &w.ops[i]
		if err := w.checkKeys(p); err != nil {
			return 0, err
		}
		if p.merge && (len(p.raw) == 0 || p.raw[0] != '{') {
			return 0, invalid("value")
		}
		if w.h.cfg.Allow == nil { // it forbids all writes, whatever their values
			return 0, ErrForbidden
		}
		if p.depends() || p.quiet {
			continue
		}
		if !p.op.Delete {
			value, err := resolve(p.raw, wireKey(p.op.Key), nil, time.Now())
			if err != nil {
				return 0, err
			}
			p.op.Value = value
		}
		if err := w.allow(ctx, p.op); err != nil {
			return 0, err
		}
	}
	return 1 + float64(w.size)/costSize, nil
}

// checkKeys checks the keys of an op. Those of a tree have been checked before.
func (w *write) checkKeys(p *pending) error {
	if w.h.kind.tree {
		return nil
	}
	for _, key := range []string{p.op.Key, p.op.From} {
		if len(key) > maxKey {
			return &LimitError{Err: ErrTooLarge, What: "key", Max: maxKey}
		}
		if !isKey(key) {
			return invalid("key")
		}
	}
	return nil
}

// allow asks Config.Allow about an op. It was asked about those of a will when the will was set.
func (w *write) allow(ctx context.Context, op Op) error {
	if w.c == nil {
		return nil
	}
	if w.h.kind.tree {
		op.Key = wireKey(op.Key)
	}
	return w.h.allow(ctx, w.c, Access{Action: Write, Op: op})
}

// depends reports whether the op depends on the current object.
func (p *pending) depends() bool {
	return p.merge || p.exists || p.place != nil || needsCurrent(p.raw)
}

func (w *write) takeRate(cost float64) error {
	l := &w.h.cfg.Limits
	if l.Rate > 0 {
		if err := take(&w.m.used().writes, l.Rate, cost); err != nil {
			return err
		}
	}
	return w.m.cell.takeWrite(l.ObjectRate, cost)
}

// resolve returns the ops with their values. Those that depend on current values require that these
// stay as they are.
func (w *write) resolve(ctx, waiting context.Context) (ops []Op, depends []bool, err error) {
	ops, depends = make([]Op, len(w.ops)), make([]bool, len(w.ops))
	for i := range w.ops {
		ops[i] = w.ops[i].op
		if w.ops[i].depends() {
			if depends[i], err = w.resolveOp(ctx, waiting, ops[:i+1]); err != nil {
				return nil, nil, err
			}
		}
	}
	return ops, depends, nil
}

// resolveOp completes the last of ops. It reports whether the write should be tried again if the
// object has changed.
func (w *write) resolveOp(ctx, waiting context.Context, ops []Op) (again bool, err error) {
	i := len(ops) - 1
	p, op := &w.ops[i], &ops[i]
	var current Item
	if p.place != nil {
		if op.Key, err = w.find(waiting, p.place, ops[:i]); err != nil {
			return false, err
		}
		again = true
	} else {
		if current, err = w.current(waiting, op.Key); err != nil {
			return false, err
		}
		if p.exists && current.Rev == 0 {
			if op.Own { // the client is not its last writer: nothing is written
				*op = Op{Key: op.Key, Delete: true, Own: true}
				return false, nil
			}
			return false, ErrNotFound
		}
		if op.If != nil && *op.If != current.Rev {
			return false, &ConflictError{Op: i, Key: op.Key, Rev: current.Rev, Value: current.Value}
		}
		again = op.If == nil
	}
	op.If = &current.Rev
	if op.From == "" {
		if op.Value, err = resolve(p.raw, wireKey(op.Key), current.Value, time.Now()); err != nil {
			return false, err
		}
	}
	if p.merge {
		if op.Value, err = mergePatch(current.Value, op.Value); err != nil {
			return false, err
		}
	}
	return again, w.allow(ctx, *op)
}

// current reads an item. One that does not exist has revision 0 and no value.
func (w *write) current(ctx context.Context, key string) (it Item, err error) {
	return w.h.o.item(ctx, w.topic, key)
}

func (o *Objects) item(ctx context.Context, topic, key string) (it Item, err error) {
	p, err := o.store.Read(ctx, topic, one(key), "", 1)
	if err != nil {
		return it, storeError(ctx, err)
	}
	for i := range p.Items {
		it = p.Items[i]
	}
	return it, nil
}

func (w *write) tx() Tx {
	tx := Tx{ID: w.id, Writer: w.writer, Limits: w.h.cfg.Limits}
	switch l := w.limits(); {
	case w.h.kind.document:
		tx.Limits.Batch = 1
	case w.h.kind.tree:
		tx.Limits.Batch = max(l.Batch, maxTreeOps)
	}
	return tx
}

// writeID returns the id of a write whose client calls it id.
func writeID(ctx context.Context, id string) string {
	info, _ := socket.InfoFrom(ctx)
	id = info.Subject + "\x00" + info.ClientID + "\x00" + id
	if len(id) > maxID { // a subject may have any length
		id = hashed(id)
	}
	return id
}

func hashed(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

// writerOf returns the id of the client's connection.
func writerOf(ctx context.Context) string {
	info, _ := socket.InfoFrom(ctx)
	return info.ConnectionID
}

// reads is how many pages a channel may read in a second.
const reads = 20

// takePage takes what a push of a page says about its size and place, if the channel may read
// another one now.
func (m *member) takePage(in members) (most int, next string, err error) {
	if most, next, err = in.page(); err == nil {
		err = take(&m.used().reads, reads, 1)
	}
	return most, next, err
}

// readPage handles a push that reads a page.
func (h *handler) readPage(m *member, ctx context.Context, in members) (push.Reply, error) {
	if h.kind.document {
		return push.NoReply, invalid(pushRead)
	}
	r, _, err := in.keys(h.kind, 0)
	if err != nil {
		return push.NoReply, err
	}
	most, next, err := m.takePage(in)
	if err != nil {
		return push.NoReply, err
	}
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	p, err := h.o.store.Read(waiting, m.cell.topic, r, next, most)
	if err != nil {
		return push.NoReply, storeError(waiting, err)
	}
	return pageReply(h.visible(ctx, m.channel, p.Items), p.Next), nil
}

// remove handles a push that removes the object.
func (h *handler) remove(ctx context.Context, c *channel.Channel, in members) (push.Reply, error) {
	id, err := in.id()
	if err != nil {
		return push.NoReply, err
	}
	first, err := in.firstSent(id)
	if err != nil {
		return push.NoReply, err
	}
	if id != "" {
		id = writeID(ctx, id)
	}
	if err := in.rest(); err != nil {
		return push.NoReply, err
	}
	if err := h.allow(ctx, c, Access{Action: Remove}); err != nil {
		return push.NoReply, err
	}
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	if err := h.mayRemoveAgain(waiting, c.Topic(), first); err != nil {
		return push.NoReply, err
	}
	if err := h.o.store.Remove(waiting, c.Topic(), id); err != nil {
		return push.NoReply, storeError(waiting, err)
	}
	return push.OK(nil), nil
}

// Update reads an item, changes it by f, and writes it if it was not changed meanwhile; otherwise
// it begins again, until ctx ends. An item that does not exist is the zero T. The key of a document
// is empty. It returns the new revision. If f returns an error, nothing is written, and Update
// returns it. It is for the server's own code, and does not ask Config.Allow.
func Update[T any](ctx context.Context, o *Objects, topic, key string, f func(*T) error) (rev uint64, err error) {
	for {
		it, err := o.item(ctx, topic, key)
		if err != nil {
			return 0, err
		}
		var v T
		if it.Value != nil {
			if err := json.Unmarshal(it.Value, &v); err != nil {
				return it.Rev, err
			}
		}
		if err := f(&v); err != nil {
			return it.Rev, err
		}
		value, err := json.Marshal(v)
		if err != nil {
			return it.Rev, err
		}
		a, err := o.Apply(ctx, topic, []Op{{Key: key, Value: value, If: &it.Rev}}, Tx{})
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			if err != nil {
				return it.Rev, err
			}
			return a.Revs[0], nil
		}
		select {
		case <-time.After(rand.N(maxPause)):
		case <-ctx.Done():
			return it.Rev, ctx.Err()
		}
	}
}
