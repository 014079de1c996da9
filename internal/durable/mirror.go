package durable

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"bennu.example/history"
	"bennu.example/offline"
)

// This file has the mirrors of a client. Those of topics that are in use are open: a Mirror has
// their source, and whatever changes it calls Changed. Once a second the loop lets the committer
// store what has changed. The committer takes value and position from the source at one moment,
// so a store never has one without the other.

const (
	// mirrorDelay is how long a change of a mirror waits for others.
	mirrorDelay = time.Second
	// mirrorRetry is the delay after the store has failed.
	mirrorRetry = 10 * time.Second
	// maxUpdating bounds the mirrors with the policy KeepUpdating.
	maxUpdating = 64

	defaultMirrorBytes = 64 << 20
	// mirrorOverhead is the size in bytes of a mirror in Config.MirrorBytes without its value.
	mirrorOverhead = 128
)

// Source has what an open mirror stores.
type Source interface {
	// Snapshot returns a value and its position, as they are at one moment. It may be called by any
	// goroutine. It must not block, nor call the outbox.
	Snapshot() (value []byte, pos history.Position, err error)
}

// Mirror is an open mirror. Its methods may be called by any goroutine.
type Mirror struct {
	o         *Outbox
	key       mirrorKey
	source    Source
	isChanged atomic.Bool

	// Guarded by Outbox.mu.
	policy   offline.Policy
	isDenied bool // the client has no right to it
	isUnsure bool // the store has failed: it may have another value than mirrors.stored
}

type mirrorKey struct{ topic, kind string }

// mirrors are the mirrors of an outbox. Outbox.mu guards them, except for changed and timer.
type mirrors struct {
	stored map[mirrorKey]*offline.Mirror // what the store has, or will have soon. They never change
	open   map[mirrorKey]*Mirror
	bytes  int64 // of stored

	// Owned by the loop. They are stored, or removed, when its timer is due.
	changed   []*Mirror
	unremoved []string // topics
}

func sizeOfMirror(m *offline.Mirror) int64 {
	return int64(mirrorOverhead + len(m.Topic) + len(m.Kind) + len(m.Value))
}

// OpenMirror makes source the origin of a mirror from now on, and returns what is stored of that,
// or nil. Another mirror of the same topic and kind that is open is not stored any more.
func (o *Outbox) OpenMirror(topic, kind string, source Source, p offline.Policy) (*Mirror, *offline.Mirror) {
	m := &Mirror{o: o, key: mirrorKey{topic, kind}, source: source}
	o.mu.Lock()
	stored := o.mirrors.stored[m.key]
	o.mirrors.open[m.key] = m
	isTooMany := m.setPolicyLocked(p)
	o.mu.Unlock()
	m.logTooMany(isTooMany)
	return m, stored
}

// SourceOf returns the source of the mirror that is open, or nil.
func (o *Outbox) SourceOf(topic, kind string) Source {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m := o.mirrors.open[mirrorKey{topic, kind}]; m != nil {
		return m.source
	}
	return nil
}

// Restorers open the mirrors of a kind in a later process, by a *socket.Client, so that they are
// updated. Packages add theirs when they are initialized. The params are those of the program for
// the join, or nil.
var Restorers = make(map[string]func(client any, stored *offline.Mirror, params any) error)

// Restore opens the stored mirrors that are to be updated and are not open, until ctx ends. It
// removes those that it cannot open.
func (o *Outbox) Restore(ctx context.Context, client any, params func(topic string) any) error {
	o.mu.Lock()
	broken := o.broken
	var list []*offline.Mirror
	for key, m := range o.mirrors.stored {
		if o.mirrors.open[key] == nil && m.Policy == offline.KeepUpdating && Restorers[key.kind] != nil {
			list = append(list, m)
		}
	}
	o.mu.Unlock()
	if broken != nil {
		return broken
	}
	slices.SortFunc(list, func(a, b *offline.Mirror) int { return cmp.Compare(a.Topic, b.Topic) })
	for _, m := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		var p any
		if params != nil {
			p = params(m.Topic)
		}
		if err := Restorers[m.Kind](client, m, p); err != nil {
			o.host.Log().Warn().Err(err).Str("topic", m.Topic).Str("kind", m.Kind).Msg("mirror removed")
			o.Forget(m.Topic)
		}
	}
	return nil
}

// Deny removes the mirror. It is not stored before Allow.
func (m *Mirror) Deny() {
	m.o.mu.Lock()
	defer m.o.mu.Unlock()
	m.isDenied = true
	m.o.forgetLocked(m.key.topic)
}

// Allow ends the effect of Deny and of ForgetAll.
func (m *Mirror) Allow() {
	m.o.mu.Lock()
	was := m.isDenied
	m.isDenied = false
	m.o.mu.Unlock()
	if was {
		m.Changed()
	}
}

// SetPolicy changes the policy. The mirror is removed at once if it is Forget.
func (m *Mirror) SetPolicy(p offline.Policy) {
	m.o.mu.Lock()
	old := m.policy
	isTooMany := m.setPolicyLocked(p)
	isNew := m.policy != old && p != offline.Forget
	if p == offline.Forget && old != p {
		m.o.forgetLocked(m.key.topic)
	}
	m.o.mu.Unlock()
	m.logTooMany(isTooMany)
	if isNew {
		m.Changed()
	}
}

func (m *Mirror) setPolicyLocked(p offline.Policy) (isTooMany bool) {
	if p == offline.KeepUpdating && m.policy != p && m.o.countUpdatingLocked(m.key) >= maxUpdating {
		p, isTooMany = offline.Keep, true
	}
	m.policy = p
	return isTooMany
}

// countUpdatingLocked counts the mirrors with KeepUpdating, without that of the key.
func (o *Outbox) countUpdatingLocked(without mirrorKey) (n int) {
	for key, m := range o.mirrors.open {
		if key != without && m.policy == offline.KeepUpdating {
			n++
		}
	}
	for key, m := range o.mirrors.stored {
		if key != without && o.mirrors.open[key] == nil && m.Policy == offline.KeepUpdating {
			n++
		}
	}
	return n
}

func (m *Mirror) logTooMany(isTooMany bool) {
	if isTooMany {
		m.o.host.Log().Warn().Str("topic", m.key.topic).Int("max", maxUpdating).
			Msg("mirror is kept, but not updated: there are too many")
	}
}

// Changed lets the mirror be stored within a second.
func (m *Mirror) Changed() { m.changedWithin(mirrorDelay) }

func (m *Mirror) changedWithin(d time.Duration) {
	if m.isChanged.Load() || m.isChanged.Swap(true) {
		return
	}
	o := m.o
	o.host.Post(task(func() {
		o.mirrors.changed = append(o.mirrors.changed, m)
		o.armMirrors(d)
	}))
}

// storeMirrors lets the committer store what has changed. It is the task of the timer.
func (o *Outbox) storeMirrors() {
	changed, unremoved := o.mirrors.changed, o.mirrors.unremoved
	o.mirrors.changed, o.mirrors.unremoved = nil, nil
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []*change
	for _, topic := range unremoved {
		if !slices.Contains(o.topicsLocked(), topic) {
			list = append(list, &change{kind: changeMirror, ops: []offline.Op{{Forget: topic}}})
		}
	}
	for _, m := range changed {
		if m.isChanged.Swap(false) {
			list = append(list, &change{kind: changeMirror, mirror: m})
		}
	}
	if len(list) > 0 {
		o.commitLocked(list...)
	}
}

// removeLater notes removals that have failed.
func (o *Outbox) removeLater(ops []offline.Op) {
	o.host.Post(task(func() {
		for _, op := range ops {
			if set := &o.mirrors; op.Forget != "" && len(set.unremoved) < maxUndropped {
				set.unremoved = append(set.unremoved, op.Forget)
			}
		}
		o.armMirrors(mirrorRetry)
	}))
}

func (o *Outbox) armMirrors(d time.Duration) {
	if !o.isEnded && !o.mirroring.IsArmed() {
		o.host.Arm(&o.mirroring, d)
	}
}

// End stores the mirror for the last time, or removes it if the policy is Forget.
func (m *Mirror) End() {
	o := m.o
	o.mu.Lock()
	isOpen, isKept := o.mirrors.open[m.key] == m, m.isKeptLocked()
	o.mu.Unlock()
	if !isOpen {
		return
	}
	var value []byte
	var pos history.Position
	var err error
	if isKept {
		value, pos, err = m.source.Snapshot()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mirrors.open[m.key] != m {
		return
	}
	if !m.isKeptLocked() || err != nil {
		o.forgetLocked(m.key.topic)
	} else {
		c := &change{kind: changeMirror, mirror: m}
		c.ops = m.putLocked(value, pos)
		o.commitLocked(c)
	}
	delete(o.mirrors.open, m.key)
}

func (m *Mirror) isKeptLocked() bool { return m.policy != offline.Forget && !m.isDenied }

// Reject removes a mirror that is stored and cannot be used.
func (m *Mirror) Reject(err error) {
	m.o.host.Log().Warn().Err(err).Str("topic", m.key.topic).Str("kind", m.key.kind).Msg("mirror removed")
	m.o.Forget(m.key.topic)
}

// Forget removes the mirrors of a topic. Those that are open are stored again when they change.
func (o *Outbox) Forget(topic string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgetLocked(topic)
}

// ForgetUnused removes the mirrors of a topic, unless one of them is open.
func (o *Outbox) ForgetUnused(topic string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range o.mirrors.open {
		if key.topic == topic {
			return
		}
	}
	o.forgetLocked(topic)
}

// ForgetAll removes all mirrors, because the client was denied. Those that are open are not stored
// before Allow.
func (o *Outbox) ForgetAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.mirrors.open {
		m.isDenied = true
	}
	for _, topic := range o.topicsLocked() {
		o.forgetLocked(topic)
	}
}

// topicsLocked returns the topics that have a mirror, in order.
func (o *Outbox) topicsLocked() (list []string) {
	for key := range o.mirrors.stored {
		list = append(list, key.topic)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// forgetLocked removes the mirrors of a topic. The caller holds mu.
func (o *Outbox) forgetLocked(topic string) {
	if ops := o.removeLocked(topic); len(ops) > 0 {
		o.commitLocked(&change{kind: changeMirror, ops: ops})
	}
}

// removeLocked returns the operation that removes the mirrors of a topic, if there are any.
func (o *Outbox) removeLocked(topic string) []offline.Op {
	isStored := false
	for key, m := range o.mirrors.stored {
		if key.topic == topic {
			o.mirrors.bytes -= sizeOfMirror(m)
			delete(o.mirrors.stored, key)
			isStored = true
		}
	}
	if !isStored {
		return nil
	}
	return []offline.Op{{Forget: topic}}
}

// prepare returns the operations of a change of a mirror. Only the committer calls it.
func (o *Outbox) prepare(c *change) []offline.Op {
	m := c.mirror
	if c.ops != nil || m == nil {
		return c.ops
	}
	value, pos, err := m.source.Snapshot()
	if err != nil {
		o.host.Log().Warn().Err(err).Str("topic", m.key.topic).Msg("mirror not stored")
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.mirrors.stored[m.key]
	isSame := old != nil && old.Position == pos && old.Policy == m.policy && bytes.Equal(old.Value, value)
	if o.mirrors.open[m.key] == m && m.isKeptLocked() && (!isSame || m.isUnsure) {
		m.isUnsure = false
		c.ops = m.putLocked(value, pos)
	}
	return c.ops
}

// putLocked returns the operations that store a mirror, and remove others for which there is no
// room then. The caller holds Outbox.mu.
func (m *Mirror) putLocked(value []byte, pos history.Position) (ops []offline.Op) {
	if pos.IsZero() && len(value) == 0 || m.o.broken != nil {
		return nil
	}
	o, set := m.o, &m.o.mirrors
	put := &offline.Mirror{
		Topic: m.key.topic, Kind: m.key.kind, Position: pos, Value: value, Policy: m.policy, Used: time.Now(),
	}
	size := sizeOfMirror(put)
	if old := set.stored[m.key]; old != nil {
		size -= sizeOfMirror(old)
	}
	for set.bytes+size > o.cfg.MirrorBytes {
		victim := o.leastUsedLocked(m.key)
		if victim == nil {
			o.host.Log().Warn().Str("topic", m.key.topic).Int64("max", o.cfg.MirrorBytes).
				Msg("mirror not stored: there is no room")
			return append(ops, o.removeLocked(m.key.topic)...)
		}
		ops = append(ops, o.removeLocked(victim.Topic)...)
	}
	set.bytes += size
	set.stored[m.key] = put
	return append(ops, offline.Op{Keep: put})
}

// leastUsedLocked returns the mirror to remove if there is no room: the one with the policy Keep
// that was used least recently, of those that are not open if there are any. Nil means that there
// is none.
func (o *Outbox) leastUsedLocked(without mirrorKey) (least *offline.Mirror) {
	isOpen := func(m *offline.Mirror) int {
		if o.mirrors.open[mirrorKey{m.Topic, m.Kind}] != nil {
			return 1
		}
		return 0
	}
	for key, m := range o.mirrors.stored {
		if m.Policy != offline.Keep || key.topic == without.topic {
			continue
		}
		if least == nil || cmp.Or(cmp.Compare(isOpen(m), isOpen(least)), m.Used.Compare(least.Used)) < 0 {
			least = m
		}
	}
	return least
}

// committedMirror receives the result of a change of a mirror.
func (o *Outbox) committedMirror(c *change, err error) {
	if c.done != nil {
		defer close(c.done)
	}
	if err == nil {
		return
	}
	c.err = storeError(err)
	o.removeLater(c.ops)
	m := c.mirror
	if m == nil {
		o.host.Log().Warn().Err(err).Msg("mirrors were not removed")
		return
	}
	if errors.Is(err, offline.ErrInvalid) { // its value is too large
		m.Reject(err)
		return
	}
	o.host.Log().Warn().Err(err).Str("topic", m.key.topic).Msg("mirror not stored")
	o.update(func() { m.isUnsure = true })
	m.changedWithin(mirrorRetry)
}

// Persist stores all mirrors that have changed, and waits until they and all earlier changes are
// stored.
func (o *Outbox) Persist(ctx context.Context) error {
	o.mu.Lock()
	if o.broken != nil {
		defer o.mu.Unlock()
		return o.broken
	}
	var list []*change
	for _, m := range o.mirrors.open {
		if m.isChanged.Load() { // it stays so: the next second finds it again
			list = append(list, &change{kind: changeMirror, mirror: m, done: make(chan struct{})})
		}
	}
	list = append(list, &change{kind: changeMirror, done: make(chan struct{})})
	o.commitLocked(list...)
	o.mu.Unlock()
	return await(ctx, list)
}

// CleanMirrors removes the mirrors of topics, or all if there are none, and waits for that.
func (o *Outbox) CleanMirrors(ctx context.Context, topics []string) error {
	o.mu.Lock()
	if o.broken != nil {
		defer o.mu.Unlock()
		return o.broken
	}
	if len(topics) == 0 {
		topics = o.topicsLocked()
	}
	var list []*change
	for _, topic := range topics {
		ops := o.removeLocked(topic)
		list = append(list, &change{kind: changeMirror, ops: ops, done: make(chan struct{})})
	}
	list = append(list, &change{kind: changeMirror, done: make(chan struct{})})
	o.commitLocked(list...)
	o.mu.Unlock()
	return await(ctx, list)
}

// await waits for changes and returns the first error.
func await(ctx context.Context, list []*change) (err error) {
	for _, c := range list {
		select {
		case <-c.done:
			err = cmp.Or(err, c.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// Mirrors returns the mirrors that are stored, or will be soon, in the order of Topic and Kind.
func (o *Outbox) Mirrors() []offline.Mirror {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]offline.Mirror, 0, len(o.mirrors.stored))
	for _, m := range o.mirrors.stored {
		own := *m
		own.Value = slices.Clone(m.Value)
		list = append(list, own)
	}
	slices.SortFunc(list, func(a, b offline.Mirror) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Kind, b.Kind))
	})
	return list
}
