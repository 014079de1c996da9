package natsengine

import (
	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/state"
)

// callOverhead is the estimated memory of a record in the mailbox in addition to its payload.
const callOverhead = 512

// call is a call of the Inbox, or of the function ready of a watch.
type call struct {
	topic     string
	record    *history.Record
	forgotten bool
	change    *state.Change
	watch     *watch // ready is called with err
	err       error  // without a watch: a gap
}

// gap reports that records may have been missed.
func (l *remote) gap(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueueGap(reason)
}

// enqueueGap is gap for a caller that holds mu.
func (l *remote) enqueueGap(reason error) {
	reason = broker.Redact(reason, l.backend.secrets)
	if l.missed != nil || l.in.Enqueue(call{err: reason}, 0) != nil {
		l.missed = reason
	}
}

// enqueue enqueues a call. If it does not fit, records are missed. The caller must hold mu.
func (l *remote) enqueue(c call, size int) bool {
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
func (l *remote) retryMissed() {
	if l.missed != nil && l.in.Used() <= l.queued/2 && l.in.Enqueue(call{err: l.missed}, 0) == nil {
		l.missed = nil
	}
}

// call makes a call. It is the function of the mailbox.
func (l *remote) call(c call) {
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
		l.gapped(c.err)
	default:
		l.deliver(c)
	}
}
