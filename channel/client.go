package channel

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/link"
	"bennu.example/internal/loop"
	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// ErrDuplicate is wrapped by the error of a Join whose topic another channel of the same socket has, or that was called before. (phoenix.js
// would leave the other channel, whose owner could not know why; and if that one joins again the two throw each other out for ever.)
// Share the channel, or leave the one first. Leave need not be waited for: a Join behind it waits by itself.
var ErrDuplicate = errors.New("topic is joined already")

// pushOverhead is what a push costs of MaxBuffer besides its payload.
const pushOverhead = 64

// Client is a client's channel: one topic, joined by [Client.Join], and joined again after every loss of the connection and every crash of
// the server's channel, until Leave is called, the server closes it or the socket is closed.
//
// Its methods may be called from any goroutine, also from its callbacks, and never block. Callbacks (those of On, OnMessage, OnJoin,
// OnError, OnClose and of [push.Push.Receive]) run one at a time, in the order in which things happened, on a goroutine that lives only
// while there is something to do. They may block, also by waiting for a reply of the same channel: that delays only this channel's other
// callbacks. What waits for them is bounded: see [OverflowError]. A callback that panics ends the program.
//
// A push is answered exactly once. Made before the join is answered, or while there is no connection, it waits for the join, which is
// bounded in bytes ([push.ErrFull]); when that has come, all that waited is sent in order. Its timeout runs from the push, and anew when
// it is sent. A push that was sent when the connection was lost fails at once with [push.ErrLost]. Of a push that gets no reply some 400
// bytes are kept until its timeout: give such pushes a short one, if they are many.
type Client struct {
	up       link.Up
	cfg      ClientConfig
	topic    string
	params   func(context.Context) (any, error) // nil: fixed
	fixed    serializer.Payload
	fixedErr error
	room     link.Budget
	events   clientEvents
	done     chan struct{}

	// The loop's.
	state                              clientState
	inputs                             []clientInput
	outputs                            []clientOutput
	joinTimer, rejoinTimer, leaveTimer loop.Timer
	noParams                           func()
	refOf                              uint64 // see joinRef
	refText                            serializer.Ref

	unanswered atomic.Int64
	timeout    atomic.Int64
	mu         sync.Mutex
	status     ClientState
	cause      error
	leave      *clientPush
}

// ClientConfig is what a socket tells its channels. For package socket; not covered by the compatibility promise. There are no defaults.
type ClientConfig struct {
	Timeout     time.Duration
	RejoinAfter func(tries int) time.Duration
	MaxBuffer   int // bytes of pushes not yet sent
	MaxBacklog  int // bytes of events not yet handled
}

// NewClient returns a channel that is carried by up. For package socket: programs call [bennu.example/socket.Client.Channel].
func NewClient(up link.Up, topic string, params any, cfg ClientConfig) *Client {
	c := &Client{up: up, cfg: cfg, topic: topic, done: make(chan struct{})}
	c.timeout.Store(int64(cfg.Timeout))
	c.state = clientState{topic: topic, refs: up.NextRef}
	c.room = link.Budget{Max: cfg.MaxBuffer, Total: &up.Total().Queued}
	c.events.init(topic, cfg.MaxBacklog, up)
	c.joinTimer.Task = &clientTimeout{c, inJoinTimeout}
	c.rejoinTimer.Task = &clientTimeout{c, inRejoin}
	c.leaveTimer.Task = &clientTimeout{c, inLeaveTimeout}
	switch p := params.(type) {
	case func(context.Context) (any, error):
		c.params = p
	default:
		if p != nil && reflect.TypeOf(p).Kind() == reflect.Func {
			c.fixedErr = fmt.Errorf("params: %w: %T is not a func(context.Context) (any, error)", serializer.ErrPayload, p)
			break
		}
		c.fixed, c.fixedErr = serializer.Value(p).Encoded()
	}
	return c
}

// Topic is the channel's topic.
func (c *Client) Topic() string { return c.topic }

// Join joins the topic, and keeps it joined. It may be called before the socket is connected, and once. The push is answered by the first
// join that is answered or times out; one that a lost connection cut short does not count, and is made again. If it is refused, or
// times out, the channel goes on trying after the socket's RejoinAfter: call Leave to stop it.
//
// If another channel is still leaving the topic, the join is sent when that Leave was answered or has timed out, and its timeout
// starts again then. (phoenix.js sends it at once. Phoenix then ends the old channel without answering its last pushes.)
func (c *Client) Join() *push.Push { return c.JoinTimeout(0) }

// JoinTimeout is Join with a timeout of the channel's own: for this join and those after it, and for pushes and the leave. 0 is the
// socket's.
func (c *Client) JoinTimeout(d time.Duration) *push.Push {
	if d > 0 {
		c.timeout.Store(int64(d))
	}
	p := c.newPush(serializer.EventJoin, d, true)
	c.post(p, (*clientJoinTask)(p))
	return (*push.Push)(&p.handle)
}

// Leave leaves the topic. No more events come, and no more pushes are taken; those that were sent are still answered, those that wait
// fail. The push is answered when the server has said that the channel is left, or at once if there is nothing to leave. After that
// the channel is closed: to join again, make another. Before Join it does nothing.
func (c *Client) Leave() *push.Push {
	c.mu.Lock()
	p := c.leave
	isNew := p == nil
	if isNew {
		p = c.newPush(serializer.EventLeave, 0, false)
		c.leave = p
	}
	c.mu.Unlock()
	if isNew {
		c.post(p, (*clientLeaveTask)(p))
	}
	return (*push.Push)(&p.handle)
}

// Push sends an event. The payload is a Go value, or a serializer.Payload (by serializer.Binary: opaque bytes); nil is an empty object. It
// is encoded before Push returns. A push that cannot be made is answered with the reason.
func (c *Client) Push(event string, payload any) *push.Push {
	return c.PushTimeout(event, payload, 0)
}

// PushTimeout is Push with a timeout of its own. 0 is the channel's.
func (c *Client) PushTimeout(event string, payload any, d time.Duration) *push.Push {
	p := c.newPush(event, d, false)
	body, err := serializer.Value(payload).Encoded()
	if err != nil {
		c.refuse(p, err)
		return (*push.Push)(&p.handle)
	}
	size := pushOverhead + len(event) + len(body.Bytes())
	if !p.hold.Take(&c.room, size) {
		c.refuse(p, push.ErrFull)
		return (*push.Push)(&p.handle)
	}
	p.payload, p.size, p.isCounted = body, size, true
	c.unanswered.Add(1)
	if !c.post(p, (*clientPushTask)(p)) {
		c.unanswered.Add(-1)
		p.hold.Release()
	}
	return (*push.Push)(&p.handle)
}

func (c *Client) newPush(event string, timeout time.Duration, sticky bool) *clientPush {
	if timeout <= 0 {
		timeout = time.Duration(c.timeout.Load())
	}
	p := &clientPush{c: c, event: event, timeout: timeout}
	p.handle.Init(p, sticky)
	return p
}

// refuse answers a push that does not get as far as the loop.
func (c *Client) refuse(p *clientPush, err error) {
	err = p.wrap(c.topic, err)
	if p.event != serializer.EventJoin {
		c.failed(err)
	}
	p.handle.Resolve(failed(err))
}

// post hands a push to the loop, or fails it if the socket takes no more.
func (c *Client) post(p *clientPush, t loop.Task) bool {
	if err := c.up.Closing(); err != nil && p.event != serializer.EventLeave {
		c.refuse(p, fmt.Errorf("%w: %w", ErrClosed, err))
		return false
	}
	if !c.up.Post(t) {
		if p.event == serializer.EventLeave {
			p.handle.Resolve(promise.Result{Status: push.StatusOK})
			return false
		}
		c.refuse(p, ErrClosed)
		return false
	}
	return true
}

// Call pushes an event and waits for its reply, decoded into a Reply. If ctx ends first, the push is withdrawn: it will not be sent any
// more if it was not yet.
func Call[Reply any](ctx context.Context, c *Client, event string, payload any) (reply Reply, err error) {
	p := c.Push(event, payload)
	got, err := p.Wait(ctx)
	if err != nil {
		p.Cancel()
		return reply, err
	}
	if err := got.Decode(&reply); err != nil {
		return reply, fmt.Errorf("channel: reply to %s on %s: %w", event, c.topic, err)
	}
	return reply, nil
}

// On has f called with the payload of every event of that name, from now until off is called. Once off has returned f is not called any
// more, though a call that has begun may still run.
func (c *Client) On(event string, f func(serializer.Payload)) (off func()) {
	return c.events.listen(event, &clientListener{f: f})
}

// OnMessage has f called with every event, whatever its name. The message's JoinRef tells the joins of the channel apart, also where the
// wire does not say (broadcasts).
func (c *Client) OnMessage(f func(serializer.Message)) (off func()) {
	return c.events.listen("", &clientListener{any: f})
}

// Events returns the events of these names, or all if there are none, that come from now on: they are kept, up to a bound, from the
// moment Events is called. The sequence waits for more, until the channel or the socket is closed; leaving the loop ends it. Where events were
// dropped because too many waited, it yields an [*OverflowError] and goes on.
func (c *Client) Events(names ...string) iter.Seq2[serializer.Message, error] {
	return c.EventsContext(context.Background(), names...)
}

// EventsContext is Events until ctx ends.
func (c *Client) EventsContext(ctx context.Context, names ...string) iter.Seq2[serializer.Message, error] {
	return c.events.stream(names).all(ctx)
}

// OnJoin has f called with the reply of every join that succeeds.
func (c *Client) OnJoin(f func(reply serializer.Payload)) (off func()) { return c.events.onJoin.add(f) }

// OnError has f called whenever the channel becomes errored, with the cause: a *push.Error if the join was refused, push.ErrTimeout, a
// *RemoteError if the server's channel crashed, the connection's error if it was lost. It is also called with an *OverflowError when
// events for callbacks were dropped, which changes nothing else.
func (c *Client) OnError(f func(error)) (off func()) { return c.events.onError.add(f) }

// OnClose has f called once, when the channel is closed for good, with the cause: ErrLeft, a *RemoteError if the server closed it, or the
// socket's error if that was closed.
func (c *Client) OnClose(f func(error)) (off func()) { return c.events.onClose.add(f) }

// Done is closed when the channel, once joined, is closed for good.
func (c *Client) Done() <-chan struct{} { return c.done }

// State is where the channel is, and the cause if it is errored or closed for good. What Join and Leave ask for shows a moment later, and
// not after their answer.
func (c *Client) State() (ClientState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status, c.cause
}

func (c *Client) setStatus(s ClientState, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.cause = s, cause
}

// ClientStats is what waits in a client's channel at one moment.
type ClientStats struct {
	Topic       string
	State       ClientState
	Unanswered  int   // pushes without an answer yet
	Queued      int   // those of them that were not handed to the network yet
	QueuedBytes int64 // and their bytes, which count against MaxBuffer
	Callbacks   ClientBacklog
	Iterators   []ClientBacklog
}

// ClientBacklog is what waits for callbacks or for an iterator.
type ClientBacklog struct {
	Events  []string // nil: all
	Count   int
	Bytes   int64
	Dropped uint64 // so far, for want of room
}

// Stats may be called at any time.
func (c *Client) Stats() ClientStats {
	s := ClientStats{Topic: c.topic, Unanswered: int(c.unanswered.Load())}
	s.State, _ = c.State()
	s.Queued, s.QueuedBytes = c.room.Gauge.Load()
	e := &c.events
	s.Callbacks.Count, s.Callbacks.Bytes = e.backlog.Load()
	s.Callbacks.Dropped = e.dropped.Load()
	e.mu.Lock()
	streams := e.streams
	e.mu.Unlock()
	for _, stream := range streams {
		s.Iterators = append(s.Iterators, stream.stats())
	}
	return s
}
