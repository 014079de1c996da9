package channel

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

const (
	maxCalls     = 64               // open calls of a channel
	maxCallNames = 32               // events that a client answers
	maxCallBytes = 1 << 10          // of these events
	callTimeout  = 10 * time.Second // of a call whose context has no deadline
)

// Call sends an event to this client and waits for its answer. The client must have registered a
// handler for the event: see [Client.Handle]. Channels of phoenix.js can answer, too: see
// docs/channels.md. The payload must be an object; nil means an empty one.
//
// A call ends once. The error is a *push.Error if the client answered with another status than
// "ok", for example because its handler failed. Otherwise it wraps ErrNoHandler, ErrTooManyCalls
// beyond 64 open calls, serializer.ErrPayload, ErrNotJoined, ErrClosed when the channel ended, or
// the error of ctx. Without a deadline, ctx ends after 10 s. A call is never repeated, and the
// client may have acted although the call failed.
//
// A callback of the channel may wait in Call: the answer does not go through the mailbox. Messages
// of the client wait meanwhile. A join callback cannot call, because its client is not joined yet.
func (c *Channel) Call(ctx context.Context, event string, payload any) (serializer.Payload, error) {
	answer, err := c.call(ctx, event, payload)
	if err != nil {
		return serializer.Payload{}, fmt.Errorf("channel: call %s on %s: %w", event, c.topic, err)
	}
	return answer, nil
}

// serverCalls are the calls of a channel.
type serverCalls struct {
	mu     sync.Mutex // no other lock is taken under it; gather takes it under the lock of the topic
	events []string   // that the client answers; replaced, never modified
	open   map[uint64]*serverCall
	next   uint64 // the id of the next call
	ended  bool   // no call is answered any more
	spare  *serverCall
}

// serverCall is a call that waits. The goroutine that removes it from the open calls resolves it.
type serverCall struct {
	done   chan struct{} // receives once, when the call was resolved
	timer  *time.Timer   // nil until it is needed
	answer serializer.Payload
	err    error
}

func (w *serverCall) resolve(answer serializer.Payload, err error) {
	w.answer, w.err = answer, err
	w.done <- struct{}{}
}

func (c *Channel) call(ctx context.Context, event string, payload any) (answer serializer.Payload, err error) {
	calls, err := c.callsOf(event)
	if err != nil {
		return answer, err
	}
	body, err := callBody(payload)
	if err != nil {
		return answer, err
	}
	id, w, err := calls.begin()
	if err != nil {
		return answer, err
	}
	if err := c.sendCall(event, id, body); err != nil && calls.remove(id) {
		return answer, err
	}
	return calls.wait(ctx, id, w)
}

// callsOf returns the calls of a channel that may call the event now.
func (c *Channel) callsOf(event string) (*serverCalls, error) {
	c.mu.Lock()
	status, leaving := c.state.status, c.state.leaving
	c.mu.Unlock()
	switch {
	case status.isBeforeJoin():
		return nil, ErrNotJoined
	case status != serverJoined || leaving:
		return nil, ErrClosed
	case reserved(event):
		return nil, errReserved
	}
	e := c.ext.Load()
	if e == nil {
		return nil, ErrNoHandler
	}
	calls := e.calls.Load()
	if calls == nil || !calls.has(event) {
		return nil, ErrNoHandler
	}
	return calls, nil
}

// callBody returns the encoded payload of a call, which must be an object without an id.
func callBody(payload any) (serializer.Payload, error) {
	body, err := serializer.Value(payload).Encoded()
	if err != nil {
		return body, err
	}
	if body.IsBinary() {
		return body, fmt.Errorf("%w: a call cannot be binary", serializer.ErrPayload)
	}
	if mayHave(body, memberCall) {
		if _, _, found := body.Cut(memberCall); found {
			return body, fmt.Errorf("%w: the member %q is reserved", serializer.ErrPayload, memberCall)
		}
	}
	return body, nil
}

// sendCall sends the event of a call.
func (c *Channel) sendCall(event string, id uint64, body serializer.Payload) error {
	f, err := serializer.Encode(c.up.Serializer(), &serializer.Message{
		Kind: serializer.KindPush, JoinRef: c.pushRef, Topic: c.topic, Event: event, Payload: withCallID(body, id),
	})
	if err != nil {
		return err
	}
	if p := c.past(); p != nil {
		p.pushes.Add(1)
	}
	return c.send(f, transport.Delivery{Policy: transport.Disconnect, Caused: c.handling.Load()})
}

// callID returns the text of a call's id.
func callID(id uint64) string { return strconv.FormatUint(id, 36) }

// withCallID is Payload.With for the id, with a single allocation if the payload is compact JSON.
func withCallID(p serializer.Payload, id uint64) (joined serializer.Payload) {
	raw, err := p.JSON()
	if err != nil || len(raw) < 2 || raw[0] != '{' || raw[1] != '"' && raw[1] != '}' {
		return p.With(memberCall, callID(id))
	}
	var room [256]byte
	b := strconv.AppendUint(append(room[:0], `{"`+memberCall+`":"`...), id, 36)
	b = append(b, '"')
	if raw[1] == '"' {
		b = append(b, ',')
	}
	_ = joined.UnmarshalJSON(append(b, raw[1:]...)) // copies, and never fails
	return joined
}

func (s *serverCalls) has(event string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.events, event)
}

// begin opens a call.
func (s *serverCalls) begin() (id uint64, w *serverCall, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return 0, nil, ErrClosed
	case len(s.open) >= maxCalls:
		return 0, nil, ErrTooManyCalls
	}
	if w = s.spare; w == nil {
		w = &serverCall{done: make(chan struct{}, 1)}
	}
	s.spare = nil
	if s.open == nil {
		s.open = make(map[uint64]*serverCall)
	}
	id = s.next
	s.next++
	s.open[id] = w
	return id, w, nil
}

// take removes an open call and returns it, or nil if there is none.
func (s *serverCalls) take(id uint64) *serverCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.open[id]
	delete(s.open, id)
	return w
}

// remove removes a call whose caller does not wait any more. It reports false if the call was
// resolved.
func (s *serverCalls) remove(id uint64) bool { return s.take(id) != nil }

// wait waits for the end of a call.
func (s *serverCalls) wait(ctx context.Context, id uint64, w *serverCall) (answer serializer.Payload, err error) {
	var late <-chan time.Time
	if _, has := ctx.Deadline(); !has {
		if w.timer == nil {
			w.timer = time.NewTimer(callTimeout)
		} else {
			w.timer.Reset(callTimeout)
		}
		late = w.timer.C
		defer w.timer.Stop()
	}
	select {
	case <-w.done:
		return s.result(w)
	case <-ctx.Done():
		err = ctx.Err()
	case <-late:
		err = context.DeadlineExceeded
	}
	if s.remove(id) {
		return answer, err
	}
	<-w.done // it was resolved at the same moment
	return s.result(w)
}

// result returns the result of a call that was resolved, and keeps w for another one.
func (s *serverCalls) result(w *serverCall) (answer serializer.Payload, err error) {
	answer, err = w.answer, w.err
	w.answer, w.err = serializer.Payload{}, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = w
	return answer, err
}

// answered handles the answer of a client to a call. One that no call waits for is ignored: it is
// late, or repeated.
func (c *Channel) answered(event string, payload serializer.Payload) {
	e := c.ext.Load()
	if e == nil {
		return
	}
	calls := e.calls.Load()
	if calls == nil {
		return
	}
	if id, ok := strings.CutPrefix(event, binaryAnswer); ok {
		calls.resolve(id, push.StatusOK, payload)
		return
	}
	var answer struct { // not above: it is on the heap
		Call     string             `json:"$call"`
		Status   string             `json:"status"`
		Response serializer.Payload `json:"response"`
	}
	if payload.Decode(&answer) == nil { // otherwise it is not an object
		calls.resolve(answer.Call, cmp.Or(answer.Status, push.StatusError), answer.Response)
	}
}

// resolve ends the call with that id, if there is one.
func (s *serverCalls) resolve(text, status string, response serializer.Payload) {
	id, err := strconv.ParseUint(text, 36, 64)
	if err != nil {
		return
	}
	switch w := s.take(id); {
	case w == nil:
	case status != push.StatusOK:
		w.resolve(serializer.Payload{}, &push.Error{Status: status, Payload: response})
	default:
		w.resolve(response, nil)
	}
}

// endWaits ends the waits for answers and for credit, because the client sends no more.
func (c *Channel) endWaits() {
	c.endCalls()
	c.endCredit()
}

// endCalls resolves the open calls.
func (c *Channel) endCalls() {
	e := c.ext.Load()
	if e == nil {
		return
	}
	calls := e.calls.Load()
	if calls == nil {
		return
	}
	calls.mu.Lock()
	open := calls.open
	calls.open, calls.ended = nil, true
	calls.mu.Unlock()
	for _, w := range open {
		w.resolve(serializer.Payload{}, ErrClosed)
	}
}

// parseCalls returns the events of the calls that a client answers. An error is a *push.Error for
// the client.
func parseCalls(list serializer.Payload) (events []string, err error) {
	if list.Decode(&events) != nil || events == nil {
		return nil, push.Reject("invalid calls")
	}
	size := 0
	for _, event := range events {
		size += len(event)
	}
	if len(events) > maxCallNames || size > maxCallBytes {
		return nil, push.Reject("too many calls")
	}
	return events, nil
}

// answersCalls notes the events of the calls that the client answers from now on. It is called by
// the goroutine of the callbacks.
func (c *Channel) answersCalls(events []string) {
	e := c.extended()
	calls := e.calls.Load()
	if calls == nil {
		// The ids begin at random, so that a late answer to a call of another channel matches none of
		// this one: phoenix.js sends it on the channel that has the topic now.
		e.calls.Store(&serverCalls{events: events, next: rand.Uint64()})
		return
	}
	calls.mu.Lock()
	defer calls.mu.Unlock()
	calls.events = events
}
