package broker

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"bennu.example/internal/mailbox"
)

// maxSeen bounds how many nodes' connections are remembered. Only nodes that connected again count.
const maxSeen = 10_000

var (
	errSlow    = errors.New("this node did not keep up")
	errStale   = errors.New("a message of an earlier connection came late and was dropped")
	errForeign = errors.New("no node sent it")
)

// delivery is a message on its way to the inbox, or a gap.
type delivery struct {
	data []byte
	gap  error
}

// connection is the latest of another node.
type connection struct {
	epoch uint32
	told  bool // of a gap, after it began: that covers all of the earlier ones
}

// receive takes what the engine brings. It calls nothing but the queue.
func (r *Relay) receive(data []byte) {
	if e, ok := parseEnvelope(data); ok && e.kind >= kindProbe {
		r.receiveProbe(e)
		return
	}
	if len(data) >= headerSize && bytes.Equal(data[1:epochAt], r.id[:]) {
		return // an echo
	}
	r.missedMu.Lock()
	defer r.missedMu.Unlock()
	r.postMissed()
	if r.missed == nil && errors.Is(r.in.Enqueue(delivery{data: data}, len(data)), mailbox.ErrFull) {
		r.missed = errSlow
	}
}

// gap has the inbox told that something may have been missed.
func (r *Relay) gap(why error) {
	why = r.redact(why)
	r.missedMu.Lock()
	defer r.missedMu.Unlock()
	if r.missed == nil && errors.Is(r.in.Enqueue(delivery{gap: why}, 0), mailbox.ErrFull) {
		r.missed = why
	}
}

// tellMissed is for when nothing comes in that would do it.
func (r *Relay) tellMissed() {
	r.missedMu.Lock()
	defer r.missedMu.Unlock()
	r.postMissed()
}

// postMissed posts the gap that found no room, once half of the room is free: a node that is slow is told now and then, not for every message.
// The caller holds missedMu.
func (r *Relay) postMissed() {
	if r.missed != nil && r.in.Used() <= r.cfg.Queue/2 && r.in.Enqueue(delivery{gap: r.missed}, 0) == nil {
		r.missed = nil
	}
}

// work is the queue's function.
func (r *Relay) work(d delivery) {
	if d.gap != nil {
		r.tell(d.gap)
		return
	}
	e, ok := parseEnvelope(d.data)
	if !ok {
		r.skip(errForeign)
		return
	}
	c := r.seen[e.from]
	switch {
	case e.epoch < c.epoch:
		if !c.told {
			r.see(e.from, connection{c.epoch, true})
			r.tell(errStale)
		}
		return
	case e.epoch > c.epoch && e.epoch > 1:
		c = connection{epoch: e.epoch}
		r.see(e.from, c)
	}
	if e.kind == kindLost {
		if c.epoch > 0 {
			r.see(e.from, connection{c.epoch, true})
		}
		r.tell(fmt.Errorf("node %q lost its connection while it was sending", e.body))
		return
	}
	if err := r.inbox.Deliver(e.body); err != nil {
		r.skip(err)
	}
}

// see remembers a node's latest connection.
func (r *Relay) see(from uuid.UUID, c connection) {
	if len(r.seen) >= maxSeen {
		clear(r.seen)
	}
	r.seen[from] = c
}

func (r *Relay) tell(gap error) {
	r.log.Warn().Err(gap).Msg("pubsub: broadcasts of other nodes may have been missed")
	r.mu.Lock()
	r.health.Gaps++
	r.mu.Unlock()
	r.inbox.Gap(gap)
}

func (r *Relay) skip(why error) {
	if !r.garbage {
		r.garbage = true
		r.log.Warn().Err(why).Msg("pubsub: skipped what is no broadcast; any more are skipped silently")
	}
}
