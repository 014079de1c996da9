package pubsub

import (
	"crypto/rand"
	"errors"
	"strconv"
	"sync"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
)

// recordDelivery is the delivery of a record, or of a broadcast that follows one.
type recordDelivery struct {
	ps *PubSub
	delivery
}

var _ follow.Delivery[*Broadcast] = (*recordDelivery)(nil)

// prepare calls the preparers of the topic. The caller must hold no lock.
func (d *recordDelivery) prepare() {
	t := d.ps.lock(topicKey(d.b.Topic))
	if t == nil {
		return
	}
	preps := t.prep
	t.mu.RUnlock()
	if len(preps) > 0 {
		d.prepared, _ = d.ps.prepare(preps, d.b)
	}
}

// Item is part of follow.Delivery.
func (d *recordDelivery) Item(r *history.Record) *Broadcast {
	d.b.record = r
	return d.b
}

// Deliver is part of follow.Delivery.
func (d *recordDelivery) Deliver(f *followed) {
	if t := d.ps.lock(topicKey(f.Name())); t != nil {
		d.deliverTo(t)
	}
}

// Done is part of follow.Delivery.
func (d *recordDelivery) Done() {
	for _, err := range d.panics {
		d.ps.report(err)
	}
	d.ps.notifyDelivered(&d.delivery)
}

// delivery returns the delivery of a record that the log has fed, or that was read from it.
func (r *records) delivery(topic string, rec *history.Record) follow.Delivery[*Broadcast] {
	if d := r.pending.get(rec.Origin); d != nil {
		return d
	}
	d := &recordDelivery{ps: r.ps, delivery: delivery{b: newRecorded(topic, rec)}}
	r.ps.accept(d.b)
	d.prepare()
	return d
}

// following returns a broadcast for other nodes that is not recorded. If its topic is, it says
// which record precedes it, so that it does not overtake the record there.
func (p *PubSub) following(to address, b *Broadcast) *Broadcast {
	if p.records == nil || p.records.topics.Instant() || to.key != topicKey(to.name) ||
		p.records.rules.topic(to.name) == nil {
		return b
	}
	after := p.records.topics.Sent(to.name)
	if after.IsZero() {
		return b
	}
	return &Broadcast{Topic: b.Topic, Event: b.Event, Payload: b.Payload, after: &after, origin: b.origin}
}

// deliverAfter delivers a broadcast of another node that is not recorded, after the record that it
// follows. It reports false if the topic is not in use.
func (r *records) deliverAfter(b *Broadcast) bool {
	f := r.topics.Find(b.Topic)
	if f == nil {
		return false
	}
	defer f.Release()
	d := &recordDelivery{ps: r.ps, delivery: delivery{b: b}}
	d.prepare()
	f.DeliverAfter(*b.after, len(b.Payload.Bytes()), d)
	return true
}

// An append that got no answer is kept for pendingTime, but at most maxPending of them.
const (
	pendingTime = 10 * time.Second
	maxPending  = 10_000
)

// pendingRecords are the records that this node appends, by their origin. The log may feed a record
// before its append has returned; the sender must be left out in any case.
type pendingRecords struct {
	prefix string

	mu        sync.Mutex
	count     uint64
	m         map[string]*recordDelivery
	uncertain []uncertainRecord // oldest first
}

type uncertainRecord struct {
	origin string
	until  time.Time
}

func (p *pendingRecords) init() {
	p.prefix = rand.Text()[:16] + "-"
	p.m = make(map[string]*recordDelivery)
}

// add returns the origin of a record that is to be appended. The caller must call done after that.
func (p *pendingRecords) add(d *recordDelivery) (origin string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	origin = p.prefix + strconv.FormatUint(p.count, 36)
	p.m[origin] = d
	return origin
}

// done notes the result of an append.
func (p *pendingRecords) done(origin string, err error) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, history.ErrUncertain) {
		p.uncertain = append(p.uncertain, uncertainRecord{origin, now.Add(pendingTime)})
	} else {
		delete(p.m, origin)
	}
	for len(p.uncertain) > 0 && (len(p.uncertain) > maxPending || !now.Before(p.uncertain[0].until)) {
		delete(p.m, p.uncertain[0].origin)
		p.uncertain = p.uncertain[1:]
	}
}

// get returns the delivery of a record that this node has appended, or nil.
func (p *pendingRecords) get(origin string) *recordDelivery {
	if origin == "" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.m[origin]
}
