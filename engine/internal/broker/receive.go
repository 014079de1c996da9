package broker

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
)

// maxSeen limits the number of nodes whose connections are remembered. Only nodes that have
// reconnected are counted.
const maxSeen = 10_000

var (
	errSlow    = errors.New("this node did not keep up")
	errStale   = errors.New("a delayed message of an earlier connection was dropped")
	errForeign = errors.New("not sent by a node")
)

// delivery is a message or a gap in the queue to the inbox.
type delivery struct {
	data []byte
	gap  error
}

// connection is the latest known connection of another node.
type connection struct {
	epoch    uint32
	reported bool // a gap was reported after it began, which covers all earlier connections
}

// receive handles a message from the engine. It only enqueues.
func (b *Broker) receive(data []byte) {
	if e, ok := parseEnvelope(data); ok && e.kind >= kindProbe {
		b.receiveProbe(e)
		return
	}
	if len(data) >= headerSize && bytes.Equal(data[1:epochAt], b.id[:]) {
		return // this node's own message
	}
	b.missedMu.Lock()
	defer b.missedMu.Unlock()
	b.enqueueMissed()
	if b.missed == nil && errors.Is(b.in.Enqueue(delivery{data: data}, len(data)), mailbox.ErrFull) {
		b.missed = errSlow
	}
}

// gap enqueues the report that messages may have been missed.
func (b *Broker) gap(reason error) {
	reason = b.redact(reason)
	b.missedMu.Lock()
	defer b.missedMu.Unlock()
	if b.missed == nil && errors.Is(b.in.Enqueue(delivery{gap: reason}, 0), mailbox.ErrFull) {
		b.missed = reason
	}
}

// retryMissed enqueues a gap that did not fit before. Run calls it in case nothing more is
// received.
func (b *Broker) retryMissed() {
	b.missedMu.Lock()
	defer b.missedMu.Unlock()
	b.enqueueMissed()
}

// enqueueMissed enqueues the gap that did not fit, once half of the queue is free. So a slow node
// receives a gap now and then, and not one for each message. The caller holds missedMu.
func (b *Broker) enqueueMissed() {
	if b.missed != nil && b.in.Used() <= b.cfg.Queue/2 && b.in.Enqueue(delivery{gap: b.missed}, 0) == nil {
		b.missed = nil
	}
}

// handle handles an item of the queue.
func (b *Broker) handle(d delivery) {
	if d.gap != nil {
		b.reportGap(d.gap)
		return
	}
	e, ok := parseEnvelope(d.data)
	if !ok {
		b.skip(errForeign)
		return
	}
	c := b.seen[e.from]
	switch {
	case e.epoch < c.epoch:
		if !c.reported {
			b.remember(e.from, connection{c.epoch, true})
			b.reportGap(errStale)
		}
		return
	case e.epoch > c.epoch && e.epoch > 1:
		c = connection{epoch: e.epoch}
		b.remember(e.from, c)
	}
	if e.kind == kindLost {
		if c.epoch > 0 {
			b.remember(e.from, connection{c.epoch, true})
		}
		b.reportGap(fmt.Errorf("node %q lost its connection while it was sending", e.body))
		return
	}
	m, err := pubsub.ParseBroadcast(e.body)
	if err != nil {
		b.skip(err)
		return
	}
	b.inbox.Deliver(m)
}

// remember stores the latest connection of a node.
func (b *Broker) remember(from uuid.UUID, c connection) {
	if len(b.seen) >= maxSeen {
		clear(b.seen)
	}
	b.seen[from] = c
}

func (b *Broker) reportGap(reason error) {
	b.log.Warn().Err(reason).Msg("broadcasts of other nodes may have been missed")
	b.mu.Lock()
	b.health.Gaps++
	b.mu.Unlock()
	b.inbox.Gap(reason)
}

func (b *Broker) skip(reason error) {
	if !b.malformed {
		b.malformed = true
		b.log.Warn().Err(reason).Msg("malformed message from the engine skipped; further ones are not logged")
	}
}
