package state

import (
	"context"
	"errors"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/will"
)

// A last will of an object is a batch of ops that is applied when the connection of its client has
// ended: the event is "batch", and the payload is that of the push. An op has the member "own" in
// addition, true by default: it is skipped unless that connection is the last writer of its item.

// allowWill decides about a will when it is set. Config.Allow is asked about each of its ops.
func (h *handler) allowWill(
	_ *Session, ctx context.Context, c *channel.Channel, event string, p serializer.Payload,
) (serializer.Payload, error) {
	w, err := h.parseWill(c.Topic(), event, p)
	if err == nil {
		w.c, w.writer = c, writerOf(ctx)
		if _, err = w.check(ctx); err == nil {
			waiting, cancel := h.o.patient(ctx)
			defer cancel()
			var ops []Op
			ops, _, err = w.resolve(ctx, waiting) // asks about the ops that depend on current values
			if err == nil {
				err = Check(ops, w.tx())
			}
		}
	}
	if err != nil {
		return p, h.refusal(c, err)
	}
	return p, nil
}

// parseWill returns the write of a will.
func (h *handler) parseWill(topic, event string, p serializer.Payload) (*write, error) {
	if event != pushBatch {
		return nil, ErrForbidden
	}
	m, err := parseMembers(p)
	if err != nil {
		return nil, err
	}
	w := &write{h: h, topic: topic, isWill: true}
	return w, w.addBatch(m)
}

// own makes the ops of the last request depend on the last writer of their items. An item that the
// server makes has no writer yet.
func (w *write) own() error {
	r := w.requests[len(w.requests)-1]
	if r.makes && w.ops[r.first].op.From == "" {
		return nil
	}
	for i := r.first; i < r.end; i++ {
		w.ops[i].op.Own = true
	}
	if w.h.kind.tree && r.end-r.first > 1 { // the leaves of a value have several writers
		ops := make([]Op, 0, r.end-r.first)
		for _, p := range w.ops[r.first:r.end] {
			ops = append(ops, p.op)
		}
		if !areNested(ops) {
			return invalid("own")
		}
	}
	return nil
}

// runWill applies a will. A will that was applied, and runs again, has no further effect.
func (h *handler) runWill(ctx context.Context, x will.Will) error {
	w, err := h.parseWill(x.Topic, x.Event, x.Payload)
	if err == nil {
		w.writer, w.id = x.Connection.ID, hashed("will\x00"+x.ID)
		_, err = w.apply(ctx)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, history.ErrUnavailable) || errors.Is(err, history.ErrUncertain) {
		return err
	}
	if reply, ok := errorReply(err, true); ok {
		return push.Reject(reply)
	}
	return err
}
