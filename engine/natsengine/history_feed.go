package natsengine

import (
	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
)

// callOverhead is the estimated memory of a record in the mailbox in addition to its payload.
const callOverhead = 512

// call is a call of the Inbox, or of the function ready of a watch.
type call struct {
	topic     string
	record    *history.Record
	forgotten bool
	watch     *watch // ready is called with err
	err       error  // without a watch: a gap
}

// feed handles a message that the stream has stored and sent to the nodes that watch its topic.
func (l *historyLog) feed(name string, m *nats.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.watched[name]
	if w == nil || l.state.epoch == "" {
		return
	}
	seq, err := headerNumber(m, nats.JSSequence)
	last, err2 := headerNumber(m, nats.JSLastSequence)
	if err != nil || err2 != nil || m.Header.Get(nats.JSStream) != l.stream {
		return // not sent by the stream
	}
	stored := newMessage(m.Subject, seq, m.Data, l.state.epoch, true)
	if stored.epoch != l.state.epoch {
		l.checkSoon() // this node or the other one does not know the stream
		l.state.foreign = true
		return
	}
	if !stored.isRecord() {
		w.beginning = history.Position{}
		l.enqueue(call{topic: w.topic, forgotten: true}, len(w.topic))
		return
	}
	r := stored.rec
	r.Prev = l.beginning(w)
	if last > 0 {
		r.Prev, _ = history.NewPosition(l.state.epoch, last, "")
	}
	w.beginning = history.Position{}
	l.enqueue(call{topic: w.topic, record: &r}, len(w.topic)+len(m.Data)+callOverhead)
}

// beginning returns the beginning of a watched topic that had no messages. The caller must hold mu.
func (l *historyLog) beginning(w *watch) history.Position {
	if w.beginning.Epoch() == l.state.epoch {
		return w.beginning
	}
	p, _ := history.NewPosition(l.state.epoch, l.state.newest, beginningTag)
	return p
}

// gap reports that records may have been missed.
func (l *historyLog) gap(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueueGap(reason)
}

// enqueueGap is gap for a caller that holds mu.
func (l *historyLog) enqueueGap(reason error) {
	reason = broker.Redact(reason, l.backend.secrets)
	if l.missed != nil || l.in.Enqueue(call{err: reason}, 0) != nil {
		l.missed = reason
	}
}

// enqueue enqueues a call. If it does not fit, records are missed. The caller must hold mu.
func (l *historyLog) enqueue(c call, size int) bool {
	l.retryMissed()
	switch {
	case c.watch == nil && l.missed != nil:
		return false // it is part of the gap
	case l.in.Enqueue(c, size) == nil:
		return true
	case c.watch == nil:
		l.missed = errSlow
	}
	return false
}

// retryMissed enqueues the gap that did not fit, once half of the mailbox is free. So a slow node
// receives a gap now and then, and not one for each record. The caller must hold mu.
func (l *historyLog) retryMissed() {
	if l.missed != nil && l.in.Used() <= l.queued/2 && l.in.Enqueue(call{err: l.missed}, 0) == nil {
		l.missed = nil
	}
}

// call makes a call. It is the function of the mailbox.
func (l *historyLog) call(c call) {
	in := &l.inbox
	switch {
	case c.watch != nil:
		l.mu.Lock()
		watched := l.watched[token(c.watch.topic)] == c.watch
		l.mu.Unlock()
		if watched {
			c.watch.ready(c.err)
		}
	case c.err != nil:
		l.mu.Lock()
		l.health.Gaps++
		l.mu.Unlock()
		if in.Gap != nil {
			in.Gap(c.err)
		}
	case c.forgotten:
		if in.Forgotten != nil {
			in.Forgotten(c.topic)
		}
	case in.Record != nil:
		in.Record(c.topic, *c.record)
	}
}
