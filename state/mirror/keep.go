package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/durable"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
)

// This file has what joins a mirror with the store of socket.ClientConfig.Offline: the copy and its
// position, which the store gets as of one moment.

// kindState is the Kind of the mirrors in the store. Their Value is what Save returns.
const kindState = "state"

// reasonUnauthorized is what Phoenix applications refuse a join with.
const reasonUnauthorized push.Reason = "unauthorized"

func init() { durable.Restorers[kindState] = restoreUpdating }

// keeper is the part of a Mirror that belongs to the store. It does not change once the mirror is
// open.
type keeper struct {
	outbox *durable.Outbox // nil without Offline
	stored *durable.Mirror // nil if the mirror is not stored
	policy Policy
}

// changed lets the copy be stored.
func (k *keeper) changed() {
	if k.stored != nil {
		k.stored.Changed()
	}
}

// close stores the copy for the last time, or removes it, as the policy says. A mirror that is not
// stored removes what an earlier one has left.
func (m *Mirror) close(p Policy) {
	switch k := &m.keeper; {
	case k.stored != nil:
		k.stored.SetPolicy(offline.Policy(p))
		k.stored.End()
	case k.outbox != nil && p == Forget:
		k.outbox.ForgetUnused(m.topic)
	}
}

// update stores from now on that the mirror is to be updated.
func (k *keeper) update() {
	if k.stored != nil {
		k.stored.SetPolicy(offline.KeepUpdating)
	}
}

// allow says whether the store may have the copy.
func (k *keeper) allow(isAllowed bool) {
	switch {
	case k.stored == nil:
	case isAllowed:
		k.stored.Allow()
	default:
		k.stored.Deny()
	}
}

// channelClosed stores the copy for the last time, because the channel has ended.
func (m *Mirror) channelClosed(cause error) {
	if m.stored == nil {
		m.close(m.policy)
		return
	}
	if channelhost.RightsEnded(cause) {
		m.stored.Deny()
	}
	m.stored.End()
}

// source is the durable.Source of a mirror.
type source struct{ m *Mirror }

// Snapshot is part of durable.Source. A copy that is being loaded is not stored: what the store has
// is older, and complete.
func (s source) Snapshot() (value []byte, pos history.Position, err error) {
	m := s.m
	m.mu.Lock()
	if !m.complete {
		m.mu.Unlock()
		return nil, pos, nil
	}
	c, items := m.copyLocked()
	m.mu.Unlock()
	value, err = c.encode(items)
	return value, c.Position, err
}

// openStored gives the mirror the copy that is stored, if there is one.
func (m *Mirror) openStored(opt *Options) error {
	o := channelhost.Outbox(m.channel)
	if o == nil {
		return nil
	}
	if other, ok := o.SourceOf(m.topic, kindState).(source); ok && !other.m.giveUp() {
		return channel.ErrDuplicate
	}
	m.outbox = o
	if opt == nil || opt.Keep == Forget {
		return nil
	}
	kept, stored := o.OpenMirror(m.topic, kindState, source{m}, offline.Policy(opt.Keep))
	m.stored, m.policy = kept, opt.Keep
	if stored == nil || opt.Restore != nil {
		return nil
	}
	if err := m.restore(stored.Value); err != nil {
		kept.Reject(err)
		m.items, m.pos, m.id, m.complete = nil, history.Position{}, "", false
		return nil
	}
	m.stale = true
	return nil
}

// giveUp ends a mirror without a user, so that another one can have its topic. It reports false if
// the mirror has a user.
func (m *Mirror) giveUp() bool {
	m.mu.Lock()
	isFree := m.updating || m.ended != nil
	if isFree {
		m.end(channel.ErrLeft)
	}
	m.mu.Unlock()
	if isFree {
		m.channelClosed(nil)
		m.channel.Leave()
	}
	return isFree
}

// follow lets a mirror that has a stored copy end if it can never join.
func (m *Mirror) follow(join *push.Push) {
	join.Receive(push.StatusFailed, func(serializer.Payload) {
		_, err := join.Wait(context.Background()) // does not wait
		if !isFinal(err) {
			return
		}
		m.mu.Lock()
		m.end(err)
		m.mu.Unlock()
		m.channelClosed(nil)
	})
}

// isForbidden reports whether a join was refused because the client has no right to the object.
func isForbidden(err error) bool {
	return errors.Is(err, ErrForbidden) || errors.Is(err, reasonUnauthorized)
}

// restoreUpdating opens a mirror of an earlier process with the policy KeepUpdating.
func restoreUpdating(opener any, stored *offline.Mirror, params any) error {
	var s saved
	if err := json.Unmarshal(stored.Value, &s); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	opt := &Options{
		Prefix: s.Keys.Prefix, From: s.Keys.From, To: s.Keys.To, Path: s.Keys.Path,
		First: s.Keys.First, Last: s.Keys.Last, Keep: KeepUpdating,
	}
	if s.Query != nil {
		opt.Query = s.Query.Name
		if s.Query.Args != nil {
			opt.Args = s.Query.Args
		}
	}
	m := &Mirror{extra: params, updating: true}
	if err := m.prepare(s.Kind, stored.Topic, opt); err != nil {
		return err
	}
	_, err := m.begin(opener.(Opener), opt)
	return err
}
