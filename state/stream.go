package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/follow"
	"bennu.example/push"
	"bennu.example/serializer"
)

// A stream is a recorded topic. The store has its snapshot only, as an item of the topic's object.

// snapshotKey is the key of the item.
const snapshotKey = "$snapshot"

// snapshotOverhead is what an item has in addition to the snapshot.
const snapshotOverhead = 96

// Streams returns a handler of streams: each topic has messages, which clients publish and receive
// in order, and perhaps a snapshot of what the messages up to a position have made. The rules of
// the server's history (see pubsub.NewRecorded) must record the event "message" of these topics:
// otherwise joins fail. They determine how many messages are kept.
func (o *Objects) Streams(cfg Config) *channel.Handler {
	h := &streamHandler{handler{o: o, kind: kindStream, cfg: cfg}}
	return channel.Define(h.join, h.options(h.push)...)
}

// streamHandler is what the channels of one Config of streams share.
type streamHandler struct{ handler }

// snapshot is the value of the item, and a member of the reply to a join.
type snapshot struct {
	At    history.Position `json:"at"`
	Value json.RawMessage  `json:"value"`
}

// join is the join callback.
func (h *streamHandler) join(
	s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload,
) (any, error) {
	reply, err := h.enter(s, ctx, c, p)
	if err != nil {
		return nil, h.refusal(c, err)
	}
	return serializer.Payload{}.With("$state", rawPayload(reply)), nil
}

func (h *streamHandler) enter(
	s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload,
) ([]byte, error) {
	if err := checkStreamJoin(p); err != nil {
		return nil, err
	}
	if keep, ok := channelhost.PubSub(c).Recorded().Rule(c.Topic()); !ok || !keep.Has(eventMessage) {
		return nil, fmt.Errorf("state: stream %s: %w for the event %q", c.Topic(), history.ErrNoRule, eventMessage)
	}
	if err := h.allow(ctx, c, Access{Action: Read}); err != nil {
		return nil, err
	}
	m := &s.member
	m.channel, m.h = c, &h.handler
	if h.cfg.Limits.ObjectRate > 0 { // the cell has the rate
		m.cell = h.o.enter(c.Topic())
		if !c.OnEnd(func() { h.o.exit(m.cell) }) {
			h.o.exit(m.cell)
			return nil, channel.ErrClosed
		}
	}
	reply := append([]byte(`{"kind":"`), h.kind.name...)
	reply = strconv.AppendInt(append(reply, `","limits":{"value":`...), int64(h.cfg.Limits.WithDefaults().Value), 10)
	reply = append(reply, '}')
	if r := c.Resume(); r.Asked && !r.OK {
		it, err := h.replay(ctx, c)
		if err != nil {
			return nil, err
		}
		if it.Value != nil {
			reply = append(appendMember(reply, "snapshot"), it.Value...)
		}
	}
	return append(reply, '}'), nil
}

// checkStreamJoin checks the params of a join. A stream has none of its own.
func checkStreamJoin(p serializer.Payload) error {
	if p.IsBinary() {
		return invalid("payload")
	}
	state, _, found := p.Cut("$state")
	if !found {
		return nil
	}
	m, err := parseMembers(state)
	if err != nil {
		return invalid("$state")
	}
	return m.rest()
}

// replay lets the join continue behind the snapshot, and returns it. It returns the zero Item if
// there is none, or if messages after it are not kept.
func (h *streamHandler) replay(ctx context.Context, c *channel.Channel) (Item, error) {
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	it, at, err := h.snapshot(waiting, c)
	if err != nil || at.IsZero() {
		return Item{}, err
	}
	switch err := c.ReplayFrom(at); {
	case follow.IsLoss(err):
		return Item{}, nil
	case err != nil:
		return Item{}, err
	}
	return it, nil
}

// snapshot returns the item of the snapshot, and its position. They are zero if there is none.
func (h *streamHandler) snapshot(ctx context.Context, c *channel.Channel) (Item, history.Position, error) {
	it, err := h.o.item(ctx, c.Topic(), snapshotKey)
	if err != nil || it.Value == nil {
		return it, history.Position{}, err
	}
	var s snapshot
	if err := json.Unmarshal(it.Value, &s); err != nil { // server code has put something else
		return it, history.Position{}, fmt.Errorf("state: the snapshot of %s: %w", c.Topic(), err)
	}
	return it, s.At, nil
}

// push returns the callback for a push of a name.
func (h *streamHandler) push(name string) callback {
	return func(s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
		reply, err := h.answer(name, &s.member, ctx, c, p)
		if err != nil {
			return refused(c, err, false)
		}
		return reply, nil
	}
}

func (h *streamHandler) answer(
	name string, m *member, ctx context.Context, c *channel.Channel, p serializer.Payload,
) (push.Reply, error) {
	if name == pushPublish && p.IsBinary() {
		return h.publish(ctx, m, "", p.Bytes(), p)
	}
	in, err := parseMembers(p)
	if err != nil {
		return push.NoReply, err
	}
	id, err := in.id()
	if err != nil {
		return push.NoReply, err
	}
	switch name {
	case pushPublish:
		value, err := in.text()
		if err != nil {
			return push.NoReply, err
		}
		if err := in.rest(); err != nil {
			return push.NoReply, err
		}
		body := append(append([]byte(`{"value":`), value...), '}')
		return h.publish(ctx, m, id, value, rawPayload(body))
	case pushSnapshot:
		return h.putSnapshot(ctx, m, in)
	case pushRemove:
		if err := in.rest(); err != nil {
			return push.NoReply, err
		}
		return h.removeStream(ctx, c)
	}
	return push.NoReply, invalid(name)
}

// text takes the member "value".
func (m members) text() (json.RawMessage, error) {
	raw, found := m.value("value")
	if !found || !utf8.Valid(raw) {
		return nil, invalid("value")
	}
	return raw, nil
}

// checkWrite checks the size and the rate of a write, and asks Config.Allow.
func (h *streamHandler) checkWrite(ctx context.Context, m *member, op Op) error {
	if most := h.cfg.Limits.WithDefaults().Value; len(op.Value) > most {
		return &LimitError{Err: ErrTooLarge, What: "value", Max: most}
	}
	if err := h.allow(ctx, m.channel, Access{Action: Write, Op: op}); err != nil {
		return err
	}
	w := write{h: &h.handler, m: m, c: m.channel}
	return w.takeRate(1 + float64(len(op.Value))/costSize)
}

// publish handles a push of a message.
func (h *streamHandler) publish(
	ctx context.Context, m *member, id string, value []byte, body serializer.Payload,
) (push.Reply, error) {
	if err := h.checkWrite(ctx, m, Op{Value: value}); err != nil {
		return push.NoReply, err
	}
	if id != "" {
		id = hashed(writeID(ctx, id)) // a log bounds ids to 64 bytes
	}
	pos, err := channelhost.PubSub(m.channel).AppendOnce(ctx, id, m.channel.Topic(), eventMessage, body)
	if err != nil {
		return push.NoReply, err
	}
	return ok(append(appendText([]byte{'{'}, "pos", pos), '}')), nil
}

// putSnapshot handles a push of a snapshot. One that is not newer than what the store has is left
// out, and the client need not know.
func (h *streamHandler) putSnapshot(ctx context.Context, m *member, in members) (push.Reply, error) {
	var text string
	found, err := in.take("at", &text)
	if err != nil || !found {
		return push.NoReply, invalid("at")
	}
	at, err := history.ParsePosition(text)
	if err != nil || at.IsZero() {
		return push.NoReply, invalid("at")
	}
	value, err := in.text()
	if err != nil {
		return push.NoReply, err
	}
	if err := in.rest(); err != nil {
		return push.NoReply, err
	}
	if err := h.checkWrite(ctx, m, Op{Key: snapshotKey, Value: value}); err != nil {
		return push.NoReply, err
	}
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	switch is, err := h.isRetained(waiting, m.channel, at); {
	case err != nil:
		return push.NoReply, storeError(waiting, err)
	case !is:
		return push.NoReply, invalid("at")
	}
	item := append(appendMember(appendText([]byte{'{'}, "at", at), "value"), value...)
	item = append(item, '}')
	if err := h.storeSnapshot(waiting, m.channel, at, item); err != nil {
		return push.NoReply, storeError(waiting, err)
	}
	return push.OK(nil), nil
}

// storeSnapshot puts the item of a snapshot, unless there is one that is as new.
func (h *streamHandler) storeSnapshot(
	ctx context.Context, c *channel.Channel, at history.Position, item []byte,
) error {
	limits := h.cfg.Limits
	limits.Value = limits.WithDefaults().Value + snapshotOverhead
	for ctx.Err() == nil {
		it, stored, err := h.snapshot(ctx, c)
		if err != nil {
			return err
		}
		if stored.Epoch() == at.Epoch() && stored.Offset() >= at.Offset() {
			// The log may have lost the position of the stored one.
			if is, err := h.isRetained(ctx, c, stored); is || err != nil {
				return err
			}
		}
		op := Op{Key: snapshotKey, Value: item, If: &it.Rev}
		_, err = h.o.Apply(ctx, c.Topic(), []Op{op}, Tx{Writer: writerOf(ctx), Limits: limits})
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
	}
	return ctx.Err()
}

// isRetained reports whether all messages after a position are kept.
func (h *streamHandler) isRetained(ctx context.Context, c *channel.Channel, at history.Position) (bool, error) {
	_, err := channelhost.PubSub(c).Since(ctx, c.Topic(), at, 1)
	if follow.IsLoss(err) {
		return false, nil
	}
	return err == nil, err
}

// removeStream handles a push that removes all messages and the snapshot. Clients that asked for
// history lose their channels, and join again.
func (h *streamHandler) removeStream(ctx context.Context, c *channel.Channel) (push.Reply, error) {
	if err := h.allow(ctx, c, Access{Action: Remove}); err != nil {
		return push.NoReply, err
	}
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	if err := h.o.Remove(waiting, c.Topic()); err != nil && !errors.Is(err, ErrNotFound) {
		return push.NoReply, storeError(waiting, err)
	}
	if err := channelhost.PubSub(c).Forget(waiting, c.Topic()); err != nil {
		return push.NoReply, storeError(waiting, err)
	}
	return push.OK(nil), nil
}
