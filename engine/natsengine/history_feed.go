package natsengine

import (
	"github.com/nats-io/nats.go"

	"bennu.example/history"
)

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

// callGap is gapped.
func (l *historyLog) callGap(reason error) {
	if l.inbox.Gap != nil {
		l.inbox.Gap(reason)
	}
}

// callInbox is deliver.
func (l *historyLog) callInbox(c call) {
	switch in := &l.inbox; {
	case c.forgotten:
		if in.Forgotten != nil {
			in.Forgotten(c.topic)
		}
	case in.Record != nil:
		in.Record(c.topic, *c.record)
	}
}
