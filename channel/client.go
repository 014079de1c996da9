package channel

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/internal/promise"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// ErrDuplicate is wrapped by the error of a Join if another channel of the same socket has the
// topic. Share the channel, or leave it first. A Join after Leave need not wait for the answer of
// the Leave: the channel waits by itself.
//
// phoenix.js leaves the other channel instead. Its owner cannot know why, and if it joins again,
// the two channels keep replacing each other.
var ErrDuplicate = errors.New("topic is already joined")

// pushOverhead is the size in bytes of a push in MaxBuffer without its payload.
const pushOverhead = 64

// Client is a client's channel for one topic. [Client.Join] joins it. It is joined again whenever
// the connection was lost or the server's channel crashed, until Leave is called, the server
// closes it or the socket is closed. Then Join begins another life of the channel, unless the
// socket is closed. Callbacks and the position of Resume stay, but iterators end with each life.
//
// Its methods may be called from any goroutine, including its callbacks, and never block. The
// callbacks of On, OnMessage, OnJoin, OnError, OnClose and [push.Push.Receive] run one at a time,
// in order, on a goroutine that exits when there are no more. A callback may block, for example
// until a reply arrives on the same channel. That delays only the other callbacks of this
// channel. Their backlog is bounded: see [OverflowError]. A callback that panics ends the
// program.
//
// A push is answered exactly once. Before the join is answered, and while there is no connection,
// pushes are kept in a buffer, which is bounded in bytes ([push.ErrFull]). After the join they
// are sent in order. A push's timeout starts when Push is called, and again when it is sent. If
// the connection is lost after it was sent, it fails immediately with [push.ErrLost].
//
// A push without reply occupies about 400 bytes until its timeout. If there are many such pushes,
// give them a short timeout.
type Client struct {
	socket   clientlink.Socket
	cfg      channelhost.ClientConfig
	wire     string // the topic on the wire, with the prefix
	topic    string // a part of wire
	budget   clientlink.Budget
	events   clientEvents
	follower channelhost.Follower // nil without Follow; does not change after Join

	// Owned by the loop.
	state                              clientState
	inputs                             []clientInput
	outputs                            []clientOutput
	joinTimer, rejoinTimer, leaveTimer loop.Timer
	turn                               *clientTurn // the present join in the socket's queue, or nil
	number                             uint64      // of the first Join, for the order of joins; zero before it
	refOf                              uint64      // see joinRef
	refText                            serializer.Ref
	rejoins                            bool // see Change.Rejoin

	unanswered atomic.Int64
	timeout    atomic.Int64
	waiting    atomic.Uint32 // a clientWait, set by the loop
	mu         sync.Mutex
	params     clientParams
	status     ClientState
	cause      error
	lives      uint64        // calls of Join that began a life; see client_lives.go
	isFresh    bool          // the next life has the Done and the streams of the last one, which did not begin
	join       *clientPush   // of the life; nil once it has ended, or is left
	leave      *clientPush   // the last Leave, until it is answered
	done       chan struct{} // of the last life
	needsAuth  bool          // does not change after Join
	priority   int8          // does not change after Join
	policy     offline.Policy

	wills  []*clientWill                // owned by the loop
	resume atomic.Pointer[clientResume] // nil without Resume; does not change after Join
	calls  atomic.Pointer[clientCalls]  // nil without Handle
	credit *clientCredit                // nil without Credit; does not change after Join
}

// newClient is channelhost.NewClient.
func newClient(socket clientlink.Socket, topic string, params any, cfg channelhost.ClientConfig) *Client {
	wire := cfg.Prefix + topic
	topic = wire[len(cfg.Prefix):]
	c := &Client{socket: socket, cfg: cfg, wire: wire, topic: topic, done: make(chan struct{}), isFresh: true}
	c.timeout.Store(int64(cfg.Timeout))
	c.state = clientState{topic: topic, refs: socket.NextRef, manual: cfg.ManualRejoin}
	c.budget = clientlink.Budget{Max: cfg.MaxBuffer, Total: &socket.Total().Queued}
	c.events.init(topic, cfg.MaxBacklog, socket, c.eventLeft)
	c.joinTimer.Task = &clientTimeout{c, inJoinTimeout}
	c.rejoinTimer.Task = &clientTimeout{c, inRejoin}
	c.leaveTimer.Task = &clientTimeout{c, inLeaveTimeout}
	c.params = newClientParams(params)
	return c
}

// Topic returns the channel's topic, without socket.ClientConfig.TopicPrefix.
func (c *Client) Topic() string { return c.topic }

// Join joins the topic and keeps it joined. It may be called before the socket is connected. The
// push is answered when the first join is answered or times out. A join that is interrupted by the
// loss of the connection is repeated. If the join is refused or times out, the channel tries again
// after the socket's RejoinAfter until Leave is called. A join that the server refuses because
// there are too many is repeated after 1 s, and is not answered by that.
//
// If the channel is joined, or tries to join, Join returns the push of the earlier call. If it is
// closed, Join begins another life. If it is still leaving, the new life begins when that Leave was
// answered or timed out; another Leave in that time cancels it.
//
// If another channel is still leaving the topic, the join is sent when that Leave was answered or
// timed out, and then its timeout starts again. phoenix.js sends it immediately, and Phoenix then
// ends the old channel without answering its last pushes.
func (c *Client) Join() *push.Push { return c.JoinWithTimeout(0) }

// JoinWithTimeout calls Join with a timeout for this channel: for its joins, pushes and leave. Zero
// means the socket's timeout. It does not change the timeout of a channel that is joined.
func (c *Client) JoinWithTimeout(d time.Duration) *push.Push {
	c.mu.Lock()
	if p := c.join; p != nil {
		c.mu.Unlock()
		return (*push.Push)(&p.handle)
	}
	if d > 0 {
		c.timeout.Store(int64(d))
	}
	p := c.newPush(serializer.EventJoin, d, true)
	isFresh := c.isFresh
	if !isFresh {
		c.done = make(chan struct{})
	}
	c.lives++
	c.isFresh = false
	p.life, p.done, c.join = c.lives, c.done, p
	c.mu.Unlock()
	c.events.beginLife(p.life, isFresh)
	if !c.post(p, (*clientJoinTask)(p)) && !isFresh {
		c.lifeEnded(p)
	}
	return (*push.Push)(&p.handle)
}

// Leave leaves the topic. From now on there are no more events, and pushes fail. Pushes that were
// sent before are still answered; those in the buffer fail. The push that Leave returns is
// answered when the server confirms, or immediately if there is nothing to leave. Then the
// channel is closed, until Join is called again. Before Join, Leave does nothing.
func (c *Client) Leave() *push.Push {
	c.mu.Lock()
	p := c.leave
	isNew := p == nil || c.join != nil
	if isNew {
		p = c.newPush(serializer.EventLeave, 0, false)
		p.life, c.leave, c.join = c.lives, p, nil
	}
	c.mu.Unlock()
	if isNew {
		c.post(p, (*clientLeaveTask)(p))
	}
	return (*push.Push)(&p.handle)
}

// Push sends an event. The payload is a Go value or a serializer.Payload, such as one of bytes from
// serializer.Binary. Nil means an empty object. The payload is encoded before Push returns. If that
// fails, or the channel accepts no pushes, the push is answered with an error.
func (c *Client) Push(event string, payload any) *push.Push {
	return c.PushWithTimeout(event, payload, 0)
}

// PushWithTimeout calls Push with a timeout for this push. Zero means the channel's timeout.
func (c *Client) PushWithTimeout(event string, payload any, d time.Duration) *push.Push {
	return c.push(c.newPush(event, d, false), payload)
}

// push encodes the payload of a push and posts it to the loop.
func (c *Client) push(p *clientPush, payload any) *push.Push {
	body, err := serializer.Value(payload).Encoded()
	if err != nil {
		c.refuse(p, err)
		return (*push.Push)(&p.handle)
	}
	size := pushOverhead + len(p.event) + len(body.Bytes())
	if !p.hold.Take(&c.budget, size) {
		err := push.ErrFull
		if p.isNow {
			err = notSent(err)
		}
		c.refuse(p, err)
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

// refuse answers a push that is not posted to the loop.
func (c *Client) refuse(p *clientPush, err error) {
	err = p.wrap(c.topic, err)
	if p.event != serializer.EventJoin {
		c.recordFailure(err)
	}
	p.handle.Resolve(failed(err))
}

// post posts a push to the loop. If the socket is closed, it answers the push and returns false.
func (c *Client) post(p *clientPush, t loop.Task) bool {
	if err := c.socket.Closing(); err != nil && p.event != serializer.EventLeave {
		c.refuse(p, fmt.Errorf("%w: %w", ErrClosed, err))
		return false
	}
	if !c.socket.Post(t) {
		if p.event == serializer.EventLeave {
			p.handle.Resolve(promise.Result{Status: push.StatusOK})
			return false
		}
		c.refuse(p, ErrClosed)
		return false
	}
	return true
}

// Call pushes an event, waits for the reply and decodes its payload. If ctx ends first, the push is
// canceled: if it was not sent yet, it never is.
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

// On registers f to be called with the payload of every event of that name, until off is called.
// After off returns, no new call of f begins, but one may still be running.
func (c *Client) On(event string, f func(serializer.Payload)) (off func()) {
	return c.events.listen(event, f)
}

// OnMessage registers f to be called with every event. The message's JoinRef identifies the join
// of the channel in which it was received, also for broadcasts, which have none when they are
// sent.
func (c *Client) OnMessage(f func(serializer.Message)) (off func()) {
	return c.events.all.Add(f)
}

// Events returns a sequence of the events with these names, or of all events if there are no
// names. It collects events from the moment when Events is called, in a bounded backlog. In place
// of events that were dropped because the backlog was full, it yields an [*OverflowError]. The
// sequence ends when the channel or the socket is closed, or when the loop over it ends. See
// [Client.Stream], which has more ways to end.
func (c *Client) Events(names ...string) iter.Seq2[serializer.Message, error] {
	return c.EventsContext(context.Background(), names...)
}

// EventsContext returns the sequence of Events, which also ends with ctx.
func (c *Client) EventsContext(ctx context.Context, names ...string) iter.Seq2[serializer.Message, error] {
	return c.Stream(names...).All(ctx)
}

// OnJoin registers f to be called with the reply of every successful join.
func (c *Client) OnJoin(f func(reply serializer.Payload)) (off func()) { return c.events.onJoin.Add(f) }

// OnError registers f to be called with the cause whenever the channel becomes errored: a
// *push.Error if the join was refused, push.ErrTimeout, a *RemoteError if the server's channel
// crashed, or the connection's error if it was lost. It is also called with an *OverflowError
// when events for callbacks were dropped; this does not change the state of the channel.
func (c *Client) OnError(f func(error)) (off func()) { return c.events.onError.Add(f) }

// OnClose registers f to be called, with the cause, when the channel is closed, once for each life:
// ErrLeft, a *RemoteError if the server closed it, or the socket's error if that was closed.
func (c *Client) OnClose(f func(error)) (off func()) { return c.events.onClose.Add(f) }

// Done returns a channel that is closed when the life that the last Join began has ended, and the
// joined channel is closed.
func (c *Client) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// State returns the channel's state, and the cause if it is errored or closed. The state follows
// calls of Join and Leave asynchronously, but never after their answer.
func (c *Client) State() (ClientState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status, c.cause
}

func (c *Client) setStatus(s ClientState, cause error, join *clientPush) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.cause = s, cause
	if s == StateClosed && c.join == join { // from now on, Join begins another life
		c.join = nil
	}
}

// ClientStats counts what is pending in a client's channel at one moment.
//
// Waiting is what a channel waits for that is joining or errored: "connection"; "auth", because of
// WaitForAuth or a token that has expired; "params", the function that returns them; "turn", until
// other joins were sent or answered, or until another channel has left the topic; "reply"; or
// "rejoin", the delay of RejoinAfter, or a call of Rejoin if socket.ClientConfig.ManualRejoin is
// set.
type ClientStats struct {
	Topic       string
	State       ClientState
	Waiting     string         // what a channel that is not joined waits for: see below; otherwise empty
	Unanswered  int            // pushes that were not answered yet
	Queued      int            // those of them that were not passed to the network yet
	QueuedBytes int64          // the size of these, which counts against MaxBuffer
	Callbacks   stream.Stats   // the events that wait for callbacks
	Iterators   []stream.Stats // streams of events, including those of Events and EventsContext
}

// Stats returns the current counts. It may be called at any time.
func (c *Client) Stats() ClientStats {
	s := ClientStats{Topic: c.topic, Unanswered: int(c.unanswered.Load())}
	s.State, _ = c.State()
	if s.State == StateJoining || s.State == StateErrored {
		s.Waiting = clientWait(c.waiting.Load()).String()
	}
	s.Queued, s.QueuedBytes = c.budget.Gauge.Load()
	e := &c.events
	s.Callbacks = e.callbackStats()
	e.mu.Lock()
	streams := e.streams
	e.mu.Unlock()
	for _, x := range streams {
		s.Iterators = append(s.Iterators, x.stream.Stats())
	}
	return s
}
