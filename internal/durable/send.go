package durable

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"bennu.example/internal/loop"
	"bennu.example/internal/promise"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// This file has what happens on the loop: which entries are sent when, and what their results
// mean.

const (
	maxUnanswered = 8 // entries of a topic; 1 with Config.Ordered, and after a crash
	maxCrashes    = 5 // of an entry

	// clockGrace is how long after its start the outbox waits for the server's time before it
	// examines the age of entries of earlier processes by the machine's clock.
	clockGrace = time.Minute
	// ageLeast and ageMost bound the time between two examinations of the age.
	ageLeast, ageMost = time.Second, time.Hour
	// clockTolerance is by how much the time at which an entry was sent may seem to be in the future.
	clockTolerance = time.Minute
	// wayPart and wayMost determine which part of the window of Once is left for the way to the
	// server.
	wayPart, wayMost = 8, 10 * time.Second
)

// delays are the times between attempts. The last one repeats.
var delays = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second}

// reasons are those of error replies after which an entry is sent again: the server has not
// handled it, and may do so later. "unmatched topic" means that the server's channel has ended,
// and that the client does not know it yet.
var reasons = []push.Reason{
	"too many messages", "too many ids", "unavailable", "history unavailable", "token expired", "unmatched topic",
}

// errCrashed is the error of an entry after its last crash.
const errCrashed = push.Reason("crashed")

// task is a task of the loop.
type task func()

func (t task) Run() { t() }

// topic has the entries of one topic that were stored and not answered.
type topic struct {
	queue  []*entry // in the order of Seq
	sender Sender   // nil while the topic is not joined
	joins  uint64   // calls of Joined
	window time.Duration
	timer  loop.Timer

	isCareful bool // the server's channel has crashed: one entry at a time, until one is answered
	isPumping bool
}

func (o *Outbox) topicOf(name string) *topic {
	t := o.topics[name]
	if t == nil {
		t = new(topic)
		t.timer.Task = task(func() { o.pump(t) })
		o.topics[name] = t
	}
	return t
}

// Joined begins to send the entries of a topic, because a channel has joined it. The window is
// that of the server's Once. Zero means that it has none.
func (o *Outbox) Joined(name string, s Sender, window time.Duration) {
	t := o.topicOf(name)
	t.sender, t.window = s, window
	t.joins++
	o.pump(t)
}

// Left ends that, because the channel is not joined any more.
func (o *Outbox) Left(name string, s Sender) {
	t := o.topics[name]
	if t == nil || t.sender != s {
		return
	}
	t.sender = nil
	if len(t.queue) == 0 {
		delete(o.topics, name)
	}
}

// Stop ends the sending of entries because the client is being closed. Entries that were sent may
// still be answered.
func (o *Outbox) Stop() { o.isStopped = true }

// End answers all entries of this process, because the client is closed. Later processes send
// them.
func (o *Outbox) End(err error) {
	o.isStopped, o.isEnded = true, true
	o.host.Disarm(&o.expiry)
	o.host.Disarm(&o.redrop)
	o.host.Disarm(&o.mirroring)
	for _, e := range o.inOrder() {
		if e.topic == nil { // its task is not run yet
			continue
		}
		o.host.Disarm(&e.topic.timer)
		o.abandon(e, err)
	}
}

func (o *Outbox) abandon(e *entry, err error) {
	if e.answer != nil {
		answer := e.answer
		e.answer = nil
		answer(failed(err))
	}
}

// stored receives a new entry when it was stored.
func (o *Outbox) stored(e *entry) {
	o.enqueue(e)
	if o.isEnded {
		o.abandon(e, o.host.Closing())
		return
	}
	e.number = o.host.BeginEntry(len(e.Payload))
	o.watchAge()
	o.pump(e.topic)
}

// pump sends what can be sent of a topic.
func (o *Outbox) pump(t *topic) {
	if t.isPumping {
		return
	}
	t.isPumping = true
	var marks []*change
	for !o.isStopped && t.sender != nil && o.step(t, &marks) {
	}
	t.isPumping = false
	if len(marks) > 0 {
		o.enqueueChanges(marks...)
	}
}

// step does one thing for the oldest entry for which there is something to do. Entries are sent,
// and sent again, in the order of Seq: one that waits holds up those behind it. It reports whether
// there may be more to do.
func (o *Outbox) step(t *topic, marks *[]*change) bool {
	limit := maxUnanswered
	if o.cfg.Ordered || t.isCareful {
		limit = 1
	}
	isHeld := false
	for _, e := range t.queue[:min(limit, len(t.queue))] {
		switch {
		case e.isOut:
			continue
		case e.isMarked:
			isHeld = true
			continue
		case o.isExpired(e):
			o.finish(e, failed(offline.ErrExpired))
			return true
		case time.Until(e.due) > 0:
			o.host.Arm(&t.timer, time.Until(e.due))
			return false
		case !e.isStored:
			*marks = append(*marks, o.mark(e))
			return true
		case isHeld:
			return false
		case o.isForgotten(t, e):
			o.finish(e, failed(fmt.Errorf("%w: %w", offline.ErrExpired, push.ErrLost)))
			return true
		}
		o.send(t, e)
		return true
	}
	return false
}

// mark returns the change that stores the time at which an entry is sent first.
func (o *Outbox) mark(e *entry) *change {
	e.isMarked = true
	stored := e.Entry
	stored.Sent, _, _ = o.host.Clock()
	stored.Tries++
	return &change{op: offline.Op{Put: &stored}, kind: changeSent, entry: e}
}

// sentStored receives the result of the change of mark.
func (o *Outbox) sentStored(e *entry, sent time.Time, err error) {
	e.isMarked = false
	if err != nil {
		o.host.Log().Warn().Err(err).Str("topic", e.Topic).Msg("store of the outbox failed")
		o.retry(e)
	} else {
		e.isStored, e.first = true, time.Now()
		o.update(func() { e.Sent = sent })
	}
	o.pump(e.topic)
}

// update changes entries by f, under mu.
func (o *Outbox) update(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

func (o *Outbox) retry(e *entry) {
	e.due = time.Now().Add(delays[min(e.fails, len(delays)-1)])
	e.fails++
}

// Attempt is one sending of an entry. Its fields must not be changed.
type Attempt struct {
	ID      string
	Event   string
	Payload serializer.Payload // with the $id

	o     *Outbox
	e     *entry
	joins uint64
	was   bool // the value of entry.mayBe
}

func (o *Outbox) send(t *topic, e *entry) {
	var p serializer.Payload
	_ = p.UnmarshalJSON(e.Payload) // copies, and never fails
	a := &Attempt{ID: e.ID, Event: e.Event, Payload: p.With(memberID, e.ID), o: o, e: e, joins: t.joins, was: e.mayBe}
	e.isOut, e.mayBe = true, true
	o.update(func() { e.Tries++ })
	t.sender.SendDurable(a)
}

// Done receives the result of the attempt. If isCrash is true, the server's channel crashed while
// it had the push.
func (a *Attempt) Done(r promise.Result, isCrash bool) {
	o, e := a.o, a.e
	t := e.topic
	e.isOut = false
	var closed *transport.CloseError
	if errors.As(r.Err, &closed) && closed.Code == transport.CodeTooBig {
		isCrash = true
	}
	switch {
	case errors.Is(r.Err, push.ErrOffline): // it certainly was not sent
		e.mayBe = a.was
		if !e.mayBe { // so the time of the first sending is still to come
			e.isStored = false
		}
		o.update(func() {
			e.Tries--
			if !e.mayBe {
				e.Sent = time.Time{}
			}
		})
		if t.joins == a.joins {
			t.sender = nil // until the channel is joined again
		}
	case isCrash:
		o.crashed(t, e, r.Err)
	case isFinal(r):
		t.isCareful = false
		o.finish(e, r)
	default:
		o.retry(e)
	}
	o.pump(t)
}

// crashed handles the crash of the server's channel, which probably was caused by the oldest entry
// that it had.
func (o *Outbox) crashed(t *topic, e *entry, err error) {
	t.isCareful = true
	o.retry(e)
	if t.queue[0] != e {
		return
	}
	if e.crashes++; e.crashes == maxCrashes {
		o.finish(e, failed(fmt.Errorf("%w: %w", errCrashed, err)))
	}
}

// isFinal reports whether the result of an attempt answers the entry.
func isFinal(r promise.Result) bool {
	if r.Err != nil {
		return !errors.Is(r.Err, push.ErrLost) && !errors.Is(r.Err, push.ErrTimeout)
	}
	if r.Status != push.StatusError {
		return true
	}
	err := &push.Error{Status: r.Status, Payload: r.Payload}
	return !slices.Contains(reasons, push.Reason(err.Reason()))
}

// finish answers an entry.
func (o *Outbox) finish(e *entry, r promise.Result) {
	t := e.topic
	t.queue = slices.DeleteFunc(t.queue, func(x *entry) bool { return x == e })
	o.mu.Lock()
	delete(o.entries, e.Seq)
	delivered := e.Entry
	o.mu.Unlock()
	if e.answer != nil {
		e.answer(r)
	}
	o.host.EndEntry(e.number, len(e.Payload), r.Err == nil && r.Status == push.StatusOK)
	f := o.cfg.OnDelivered
	if f == nil {
		o.drop(e)
		return
	}
	var reply serializer.Payload
	err := r.Err
	if err == nil {
		if reply = r.Payload; r.Status != push.StatusOK {
			err = &push.Error{Status: r.Status, Payload: r.Payload}
		}
	}
	o.host.Call(func() {
		f(delivered, reply, err)
		o.drop(e)
	})
}

// isExpired reports whether an entry is too old.
func (o *Outbox) isExpired(e *entry) bool {
	now, offset, isServer := o.host.Clock()
	if !isServer && !e.isOurs && time.Since(o.began) < clockGrace {
		return false
	}
	if isServer && !e.isServer && e.isOurs { // made before the server's time was known
		e.isServer = true
		o.update(func() { e.Made = e.Made.Add(offset) })
	}
	return now.Sub(e.Made) > o.cfg.Age
}

// isForgotten reports whether the server may have handled an entry and forgotten it.
func (o *Outbox) isForgotten(t *topic, e *entry) bool {
	if o.cfg.Resend || t.window <= 0 || !e.mayBe {
		return false
	}
	now, _, _ := o.host.Clock()
	since := now.Sub(e.Sent)
	if since < -clockTolerance { // the clock was set back, by an unknown time
		return true
	}
	if !e.first.IsZero() {
		since = max(since, time.Since(e.first))
	}
	return since > t.window-min(t.window/wayPart, wayMost)
}

// watchAge arms the timer for the age of entries, if it is not armed.
func (o *Outbox) watchAge() {
	if !o.expiry.IsArmed() {
		o.host.Arm(&o.expiry, min(max(o.cfg.Age, ageLeast), clockGrace))
	}
}

// sweep ends entries that are too old, whether their topics are joined or not.
func (o *Outbox) sweep() {
	next := ageMost
	now, _, _ := o.host.Clock()
	list := o.inOrder()
	for _, e := range list {
		switch {
		case e.topic == nil, e.isOut, e.isMarked: // see step
		case o.isExpired(e):
			o.finish(e, failed(offline.ErrExpired))
		default:
			next = min(next, e.Made.Add(o.cfg.Age).Sub(now)+time.Millisecond)
		}
	}
	if len(list) > 0 {
		o.host.Arm(&o.expiry, max(next, ageLeast))
	}
}

// failed returns the result of an entry that gets no reply, because of err.
func failed(err error) promise.Result {
	reason := serializer.Value(map[string]string{"reason": err.Error()})
	return promise.Result{Status: push.StatusFailed, Payload: reason, Err: err}
}
