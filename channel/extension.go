package channel

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"

	"bennu.example/push"
	"bennu.example/serializer"
)

// Names of calls and credit on the wire.
const (
	eventAnswer  = "$reply"   // pushed by clients: the answer to a call
	binaryAnswer = "$reply:"  // followed by the call's id: the same with a binary payload
	eventCalls   = "$calls"   // pushed by clients: the events of the calls that they answer
	memberCalls  = eventCalls // the same in the params of a join
	memberCall   = "$call"    // in the payload of a call and of its answer: the call's id
)

// extension is the part of a channel that not every channel needs. It is made before the join
// callback runs or, for a client that answers calls later, by the goroutine of the callbacks. A
// channel that has one keeps it.
type extension struct {
	past   *past                       // the place in the topic's history. Nil means none. It does not change.
	credit *serverCredit               // nil if the client takes any number of events. It does not change.
	calls  atomic.Pointer[serverCalls] // nil if the client has never answered calls

	// current is the context of the callback that runs, which the hooks made, for the broadcasts by
	// methods of Channel. Nil means that none runs. A handler with hooks has the extension for it.
	current atomic.Pointer[context.Context]
}

// past returns the channel's place in the history of its topic, or nil if it has none.
func (c *Channel) past() *past {
	if e := c.ext.Load(); e != nil {
		return e.past
	}
	return nil
}

// extended returns the channel's extension, and makes it if there is none. Function start calls it
// before the goroutine of the callbacks exists; afterwards only that goroutine calls it.
func (c *Channel) extended() *extension {
	e := c.ext.Load()
	if e == nil {
		e = new(extension)
		c.ext.Store(e)
	}
	return e
}

// openExtensions takes the members of the extensions out of the params of a join, before the join
// callback is called. An error is a *push.Error for the client.
func (c *Channel) openExtensions(it *item) error {
	if mayHave(it.payload, memberCalls) || mayHave(it.payload, memberCredit) {
		return c.openMore(it)
	}
	return c.openHistory(it)
}

// openMore is openExtensions for params that may have $calls or $credit. It is a function of its
// own so that other joins need a small stack only.
//
//go:noinline
func (c *Channel) openMore(it *item) error {
	var credit *serverCredit
	if value, rest, found := it.payload.Cut(memberCredit); found {
		var err error
		if credit, err = parseCredit(value); err != nil {
			return err
		}
		it.payload = rest
	}
	var calls []string
	value, rest, found := it.payload.Cut(memberCalls)
	if found {
		var err error
		if calls, err = parseCalls(value); err != nil {
			return err
		}
		it.payload = rest
	}
	if err := c.openHistory(it); err != nil {
		return err
	}
	if credit != nil {
		c.extended().credit = credit // nobody else uses it before the join is answered
	}
	if calls != nil {
		c.answersCalls(calls)
	}
	return nil
}

// mayHave reports false if an encoded payload has no member of a name that begins with "$". The "$"
// may be escaped. Most payloads have neither it nor a backslash, and the search for one byte is the
// fastest.
func mayHave(p serializer.Payload, name string) bool {
	raw := p.Bytes()
	if bytes.IndexByte(raw, '$') < 0 && bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	return !p.IsBinary() && bytes.Contains(raw, []byte(name[1:]))
}

// isAnswer reports whether an event that a client pushes is the answer to a call.
func isAnswer(event string) bool {
	return event == eventAnswer || strings.HasPrefix(event, binaryAnswer)
}

// receiveExtension handles those messages of the client that must not wait for the channel's
// callbacks, which may wait for them. It reports false for all others. The reader of the connection
// calls it.
func (c *Channel) receiveExtension(m serializer.Message) bool {
	if !isExtension(m.Event) || c.status() != serverJoined || !c.h.refuses(m.Event) {
		return false
	}
	switch {
	case isAnswer(m.Event):
		c.answered(m.Event, m.Payload)
	case m.Event == eventCredit:
		c.creditPushed(m.Ref, m.Payload)
	default:
		return false
	}
	return true
}

// handleExtension handles an event of the client that begins with "$" and for which the handler has
// no callback.
func (c *Channel) handleExtension(it *item) {
	switch {
	case it.event == eventHistory:
		c.handleHistoryPush(it)
	case it.event == eventCalls:
		c.handleCalls(it)
	case it.event == eventCredit: // it came before the join was answered
		c.creditPushed(it.ref, it.payload)
	case isAnswer(it.event): // it came before the join was answered, when there were no calls
	default:
		c.refuseReserved(it)
	}
}

// handleCalls handles a client's push of $calls.
func (c *Channel) handleCalls(it *item) {
	value, _, _ := it.payload.Cut("calls")
	calls, err := parseCalls(value)
	if err != nil {
		c.settle(it, push.NoReply, err)
		return
	}
	c.answersCalls(calls)
	c.settle(it, emptyResponse, nil)
}
