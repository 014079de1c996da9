package pubsub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/serializer"
)

// records is the recording part of a PubSub.
type records struct {
	ps      *PubSub
	log     history.Log
	rules   ruleTable
	topics  *follow.Topics[*Broadcast]
	pending pendingRecords
}

// followed is a recorded topic that is in use: it has subscribers or readers, or is broadcast to.
type followed = follow.Topic[*Broadcast]

// NewRecorded returns a PubSub that records the broadcasts that the rules select, in log. A
// recorded broadcast is stored first, and delivered only if it was stored.
//
// A log of one process, such as history.Memory, cannot be combined with an adapter, which joins
// several: each would have a log of its own. The engines have logs for several nodes. Run must be
// called, as with an adapter, unless the log is instant (see history.Local). Before, a recorded
// broadcast fails with history.ErrUnavailable.
//
// NewRecorded panics if the log is nil, if there is an adapter and the log is a history.Local, or
// if Rules.Check returns an error.
func NewRecorded(a Adapter, log history.Log, rules history.Rules) *PubSub {
	if log == nil {
		panic("pubsub: NewRecorded: the log is nil")
	}
	if err := rules.Check(); err != nil {
		panic("pubsub: NewRecorded: " + err.Error())
	}
	if _, ok := log.(history.Local); ok && a != nil {
		panic(fmt.Sprintf("pubsub: NewRecorded: %T is the log of one process, so that it cannot be combined with an adapter",
			log))
	}
	p := New(a)
	r := &records{ps: p, log: log, rules: compileRules(rules)}
	r.pending.init()
	r.topics = follow.NewTopics(log, follow.Hooks[*Broadcast]{Item: newRecorded, Delivery: r.delivery, Lost: p.lost})
	p.records = r
	return p
}

// newRecorded returns the broadcast of a record.
func newRecorded(topic string, r *history.Record) *Broadcast {
	return &Broadcast{Topic: topic, Event: r.Event, Payload: r.Payload, record: r}
}

// rule returns the rule by which an event is recorded, or nil.
func (r *records) rule(topic, event string) *history.Keep {
	if k := r.rules.topic(topic); k != nil && k.Has(event) {
		return k
	}
	return nil
}

// acquire returns a topic for use, or nil if nothing of it is recorded.
func (r *records) acquire(topic string) *followed {
	k := r.rules.topic(topic)
	if k == nil {
		return nil
	}
	return r.topics.Acquire(topic, *k)
}

// Append is Broadcast for an event that must be recorded. It returns the position of the record.
// The error wraps history.ErrNoRule if no rule records the event.
func (p *PubSub) Append(ctx context.Context, topic, event string, payload any) (history.Position, error) {
	return p.AppendOnce(ctx, "", topic, event, payload)
}

// AppendOnce is Append for an event that may be sent again, for example by a job that is retried.
// If the topic has a record with the same id that is retained and younger than 2 min, AppendOnce
// returns its position and broadcasts nothing. Empty means no id.
func (p *PubSub) AppendOnce(ctx context.Context, id, topic, event string, payload any) (history.Position, error) {
	var k *history.Keep
	if p.records != nil {
		k = p.records.rule(topic, event)
	}
	if k == nil {
		return history.Position{}, recordError(event, topic, history.ErrNoRule)
	}
	return p.record(ctx, nil, topic, event, payload, id, k)
}

func recordError(event, topic string, err error) error {
	return fmt.Errorf("pubsub: record %s on %s: %w", event, topic, err)
}

// recorded is a broadcast with its record, which are allocated together.
type recorded struct {
	Broadcast
	r history.Record
}

// record stores an event and delivers it to the subscribers.
func (p *PubSub) record(
	ctx context.Context, from Subscriber, topic, event string, payload any, id string, k *history.Keep,
) (at history.Position, err error) {
	to := address{topicKey(topic), topic}
	ctx, o := p.begin(ctx, to, event)
	if o != nil {
		defer func() { p.done(o, to, event, err) }()
	}
	if err := checkSender(from, topic, event); err != nil {
		return history.Position{}, err
	}
	body, err := recordable(payload)
	if err != nil {
		return history.Position{}, recordError(event, topic, err)
	}
	b := &recorded{
		Broadcast: Broadcast{Topic: topic, Event: event, Payload: body},
		r:         history.Record{Event: event, Payload: body, ID: id},
	}
	if o != nil {
		b.origin = &origin{ctx: o.ctx}
	}
	if sender, ok := from.(follow.Sender); ok {
		b.r.From = sender.ClientID()
	}
	pos, err := p.records.append(ctx, b, from, k)
	if err != nil {
		return history.Position{}, recordError(event, topic, err)
	}
	return pos, nil
}

// deliveries are of records of an instant log.
var deliveries = sync.Pool{New: func() any { return new(recordDelivery) }}

// append stores a record and delivers it to the subscribers except from.
func (r *records) append(ctx context.Context, b *recorded, from Subscriber, k *history.Keep) (history.Position, error) {
	instant := r.topics.Instant()
	var d *recordDelivery
	if instant {
		d = deliveries.Get().(*recordDelivery)
		defer func() {
			*d = recordDelivery{}
			deliveries.Put(d)
		}()
	} else {
		d = new(recordDelivery) // the feed may need it for longer
	}
	d.ps, d.b, d.from = r.ps, &b.Broadcast, from
	d.prepare() // before order is locked, because preparers are others' code
	if instant {
		return r.topics.Append(ctx, b.Topic, &b.r, k, d)
	}
	b.r.Origin = r.pending.add(d)
	pos, err := r.topics.Append(ctx, b.Topic, &b.r, k, d)
	r.pending.done(b.r.Origin, err)
	return pos, err
}

// recordable returns a payload as it is recorded: an object as JSON, or binary.
func recordable(payload any) (serializer.Payload, error) {
	p, err := serializer.Value(payload).Encoded()
	if err != nil || p.IsBinary() {
		return p, err
	}
	raw, err := p.JSON()
	if err != nil {
		return p, err
	}
	if body := p.Bytes(); !p.IsZero() && (len(body) == 0 || &body[0] != &raw[0]) { // it was not JSON
		if err := p.UnmarshalJSON(raw); err != nil {
			return p, err
		}
	}
	reserved, err := p.HasReserved()
	if err == nil && reserved {
		err = history.ErrReserved
	}
	return p, err
}

// Subscribers that must end because the log was lost are divided into lostParts, which end one
// after the other every lostEvery, so that not all clients return at once.
const (
	lostParts = 50
	lostEvery = 40 * time.Millisecond
)

// lost notifies the readers that their place does not exist any more. It is called under order.
func (p *PubSub) lost(f *followed) {
	t := p.lock(topicKey(f.Name()))
	if t == nil {
		return
	}
	defer t.mu.RUnlock()
	for i, s := range t.subs {
		if reader, ok := s.sub.(follow.Subscriber[*Broadcast]); ok {
			reader.Lost(time.Duration(i*lostParts/len(t.subs)) * lostEvery)
		}
	}
}

// Since returns at most max records of a topic after a position, oldest first. The error wraps
// history.ErrEpoch, ErrTrimmed, ErrAhead or ErrTag if it cannot be continued, and
// history.ErrPosition if it is zero. It wraps history.ErrNoRule if nothing is recorded on the
// topic.
func (p *PubSub) Since(ctx context.Context, topic string, after history.Position, max int) (history.Batch, error) {
	return p.read(topic, "after", after, func(log history.Log) (history.Batch, error) {
		return log.Read(ctx, topic, after, max)
	})
}

// Before returns the newest max records of a topic before a position, oldest first. The zero
// Position means the newest of all. The errors are those of Since.
func (p *PubSub) Before(ctx context.Context, topic string, before history.Position, max int) (history.Batch, error) {
	return p.read(topic, "before", before, func(log history.Log) (history.Batch, error) {
		return log.Before(ctx, topic, before, max)
	})
}

func (p *PubSub) read(
	topic, where string, at history.Position, read func(history.Log) (history.Batch, error),
) (history.Batch, error) {
	err := history.ErrNoRule
	if p.records != nil && p.records.rules.topic(topic) != nil {
		var b history.Batch
		if b, err = read(p.records.log); err == nil {
			return b, nil
		}
	}
	return history.Batch{}, fmt.Errorf("pubsub: read %s %s %q: %w", topic, where, at, err)
}

// Forget removes all records of a topic, for example because its contents must be deleted. The
// positions that clients have become invalid, and channels of clients that asked for history end by
// a phx_error, so that they join again. The error wraps history.ErrNoRule if nothing is recorded on
// the topic.
func (p *PubSub) Forget(ctx context.Context, topic string) error {
	err := history.ErrNoRule
	if p.records != nil {
		if k := p.records.rules.topic(topic); k != nil {
			err = p.records.topics.Forget(ctx, topic, *k)
		}
	}
	if err != nil {
		return fmt.Errorf("pubsub: forget %s: %w", topic, err)
	}
	return nil
}

// LogHealth returns the state of the log. Without one it returns the zero Health.
func (p *PubSub) LogHealth() history.Health {
	if p.records == nil {
		return history.Health{}
	}
	return p.records.log.Health()
}

// recordedTopics is for package channel.
type recordedTopics struct{ ps *PubSub }

// Recorded returns the recorded topics. It is for package channel; it is not covered by the
// compatibility promise.
func (p *PubSub) Recorded() recordedTopics { return recordedTopics{p} }

// Rule returns what is kept of a topic. It reports false if nothing of it is recorded.
func (r recordedTopics) Rule(topic string) (history.Keep, bool) {
	if r.ps.records != nil {
		if k := r.ps.records.rules.topic(topic); k != nil {
			return *k, true
		}
	}
	return history.Keep{}, false
}

// Open opens a reader of a topic that a rule records. The reader must be closed if err is nil.
func (r recordedTopics) Open(
	ctx context.Context, rd *follow.Reader[*Broadcast], topic string, start follow.Start,
) (follow.Mark, error) {
	if r.ps.records == nil {
		return follow.Mark{}, recordError("", topic, history.ErrNoRule)
	}
	f := r.ps.records.acquire(topic)
	if f == nil {
		return follow.Mark{}, history.ErrNoRule
	}
	m, err := rd.Open(ctx, f, start)
	if err != nil {
		f.Release()
	}
	return m, err
}
