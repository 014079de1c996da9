package channel

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"bennu.example/internal/backlog"
	"bennu.example/internal/clientlink"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// maxRuns is the number of calls that a client's channel handles at the same time.
const maxRuns = 16

var (
	callBusy      = errorReply("busy")
	callFailed    = errorReply("failed")
	callNoHandler = errorReply("no handler")
)

// Handle answers the server's calls of an event (see [Channel.Call]) until off is called. Another
// Handle for the event takes its place. The functions of On and OnMessage, and the iterators, do
// not receive the calls.
//
// Each call runs on a goroutine of its own, so f may block, and calls of f may overlap. Beyond 16
// calls of the channel at a time, the server receives the error "busy". The context ends when the
// channel is no longer joined, and with off. Then the server does not wait for the answer any more.
//
// The answer is a Go value or a serializer.Payload, which may be binary. Nil means an empty object.
// An error that wraps a *push.Error or a push.Reason is sent to the server; of any other, it
// receives only the reason "failed". A function that panics ends the program.
//
// Calls need the channel $socket: see socket.ClientConfig.NoSocketChannel. Servers without calls,
// such as Phoenix, make none. A channel can answer at most 32 events, whose names have 1 KiB in
// total. The params of its join must be an object.
func (c *Client) Handle(event string, f func(context.Context, serializer.Payload) (any, error)) (off func()) {
	h := &clientHandler{f}
	calls := c.clientCalls()
	calls.mu.Lock()
	if calls.handlers == nil {
		calls.handlers = make(map[string]*clientHandler)
	}
	calls.handlers[event] = h
	calls.mu.Unlock()
	c.socket.Post((*clientCallsTask)(c))
	return func() {
		calls.mu.Lock()
		if calls.handlers[event] == h {
			delete(calls.handlers, event)
		}
		calls.mu.Unlock()
		calls.end(h)
		c.socket.Post((*clientCallsTask)(c))
	}
}

// clientCalls are the calls that a client's channel answers.
type clientCalls struct {
	mu       sync.Mutex // held together with no other lock
	handlers map[string]*clientHandler
	runs     map[*clientRun]struct{}

	known []string // the events that the server knows of; owned by the loop
}

type clientHandler struct {
	f func(context.Context, serializer.Payload) (any, error)
}

// clientRun is a call that is handled.
type clientRun struct {
	c       *Client
	h       *clientHandler
	ctx     context.Context
	cancel  func()
	event   string
	payload serializer.Payload
	id      string
	joinRef uint64
	begun   time.Duration // by backlog.Now

	hold clientlink.Hold // of the answer, until it is written
	out  serializer.Message
}

// clientCalls returns the channel's calls, and makes them if there are none.
func (c *Client) clientCalls() *clientCalls {
	if calls := c.calls.Load(); calls != nil {
		return calls
	}
	c.calls.CompareAndSwap(nil, new(clientCalls))
	return c.calls.Load()
}

// events returns the events that have handlers.
func (s *clientCalls) events() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.handlers))
}

// end ends the contexts of a handler's calls, or of all calls if h is nil.
func (s *clientCalls) end(h *clientHandler) {
	var ended []*clientRun
	s.mu.Lock()
	for r := range s.runs {
		if h == nil || r.h == h {
			ended = append(ended, r)
		}
	}
	s.mu.Unlock()
	for _, r := range ended {
		r.cancel()
	}
}

// stats describes the calls that are handled now.
func (s *clientCalls) stats(topic string) stream.Stats {
	about := stream.Stats{Kind: stream.Calls, Topic: topic}
	now := backlog.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	about.Events = slices.Sorted(maps.Keys(s.handlers))
	for r := range s.runs {
		about.Count++
		about.Bytes += int64(len(r.payload.Bytes()))
		about.Oldest = max(about.Oldest, now-r.begun)
	}
	return about
}

// The methods of Client below run on the loop.

// callParams returns the params of a join with the events of the calls that the client answers.
func (c *Client) callParams(params serializer.Payload) serializer.Payload {
	calls := c.calls.Load()
	if calls == nil {
		return params
	}
	calls.known = nil
	if wanted, _ := c.socket.Own(); !wanted {
		return params
	}
	if calls.known = calls.events(); len(calls.known) == 0 {
		return params
	}
	return params.With(memberCalls, calls.known)
}

// clientCallsTask sends the server the events whose calls the client answers, if they changed.
type clientCallsTask Client

func (t *clientCallsTask) Run() { (*Client)(t).updateCalls() }

func (c *Client) updateCalls() {
	calls := c.calls.Load()
	if calls == nil || c.state.status != StateJoined {
		return
	}
	events := calls.events()
	if _, joined := c.socket.Own(); !joined || slices.Equal(events, calls.known) {
		return
	}
	calls.known = events
	c.sendExtension(eventCalls, serializer.Value(map[string][]string{"calls": append([]string{}, events...)}), nil, 0)
}

// sendExtension sends an event of an extension on the current join. Unlike a push, it is not sent
// again if the connection is lost, and nobody waits for a reply.
func (c *Client) sendExtension(event string, payload serializer.Payload, hold *clientlink.Hold, size int) {
	ref := c.socket.NextRef()
	c.socket.Send(clientlink.Out{
		Msg: serializer.Message{
			JoinRef: c.joinRef(c.state.joinRef), Ref: clientRef(ref), Topic: c.topic, Event: event, Payload: payload,
		},
		Ref: ref, From: clientChannel{c}, Hold: hold, Size: size,
	})
}

// receiveCall handles a message that may be a call. It returns false if it is not. An early one is
// of an older join, which cannot be answered any more.
func (c *Client) receiveCall(calls *clientCalls, m *serializer.Message, early bool) bool {
	if !mayHave(m.Payload, memberCall) {
		return false
	}
	value, payload, found := m.Payload.Cut(memberCall)
	var id string
	if !found || value.Decode(&id) != nil {
		return false
	}
	if early {
		return true
	}
	r := &clientRun{c: c, event: m.Event, payload: payload, id: id, joinRef: c.state.joinRef, begun: backlog.Now()}
	calls.mu.Lock()
	r.h = calls.handlers[m.Event]
	busy := len(calls.runs) >= maxRuns
	if r.h != nil && !busy {
		r.ctx, r.cancel = context.WithCancel(context.Background())
		if calls.runs == nil {
			calls.runs = make(map[*clientRun]struct{})
		}
		calls.runs[r] = struct{}{}
	}
	calls.mu.Unlock()
	switch {
	case r.h == nil:
		r.answer(callNoHandler)
	case busy:
		r.answer(callBusy)
	default:
		running := &c.socket.Total().Running
		running.Add()
		go func() {
			defer running.Done()
			clientlink.Callbacks((*clientRun).run)(r)
		}()
	}
	return true
}

// run calls the handler and sends its answer.
func (r *clientRun) run() {
	reply := callFailed // if the handler ends its goroutine
	defer func() {
		calls := r.c.calls.Load()
		calls.mu.Lock()
		delete(calls.runs, r)
		calls.mu.Unlock()
		r.cancel()
		r.answer(reply)
	}()
	v, err := r.h.f(r.ctx, r.payload)
	if err == nil {
		reply = push.OK(v)
		return
	}
	var rejected bool
	if reply, rejected = asRejection(err); !rejected {
		reply = callFailed
		r.log(err)
	}
}

func (r *clientRun) log(err error) {
	r.c.socket.Log().Warn().Err(fmt.Errorf("channel: call: %w", err)).Str("topic", r.c.topic).Str("event", r.event).
		Msg("call failed")
}

// answer encodes an answer and sends it.
func (r *clientRun) answer(reply push.Reply) {
	response, err := serializer.Value(reply.Payload).Encoded()
	if err != nil {
		r.log(err)
		reply, response = callFailed, callFailed.Payload.(serializer.Payload)
	}
	r.out = serializer.Message{Event: eventAnswer}
	if response.IsBinary() && reply.Status == push.StatusOK {
		r.out.Event, r.out.Payload = binaryAnswer+r.id, response
	} else {
		// The members of a struct of strings and an encoded payload can always be encoded.
		r.out.Payload, _ = serializer.Value(clientAnswer{r.id, reply.Status, response}).Encoded()
	}
	if size := pushOverhead + len(r.out.Payload.Bytes()); !r.hold.Take(&r.c.budget, size) {
		r.log(push.ErrFull)
		return
	}
	if !r.c.socket.Post((*clientAnswerTask)(r)) {
		r.hold.Release()
	}
}

// clientAnswer is the payload of the answer to a call.
type clientAnswer struct {
	Call     string             `json:"$call"`
	Status   string             `json:"status"`
	Response serializer.Payload `json:"response"`
}

// clientAnswerTask sends an answer, if the join to which the call belongs is the current one.
type clientAnswerTask clientRun

func (t *clientAnswerTask) Run() {
	c := t.c
	_, joined := c.socket.Own()
	if !joined || c.state.status != StateJoined || c.state.joinRef != t.joinRef {
		t.hold.Release()
		return
	}
	c.sendExtension(t.out.Event, t.out.Payload, &t.hold, pushOverhead+len(t.out.Payload.Bytes()))
}

// endRuns ends the contexts of the handlers, because the channel is not joined any more.
func (c *Client) endRuns() {
	if calls := c.calls.Load(); calls != nil {
		calls.end(nil)
	}
}
