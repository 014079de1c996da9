package socket

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/backlog"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/durable"
	"bennu.example/internal/loop"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/streamset"
	"bennu.example/key"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// Client is a client's socket: one connection, and the channels on it. The client reconnects when
// the connection is lost, until Close is called.
//
// Its methods may be called from any goroutine, including its callbacks. Only methods with a
// context wait for the network. Subscribe, Lookup, Topics and Progress wait for the goroutine that
// maintains the connection. The callbacks of OnState and OnProgress run in order, one at a time,
// and so do those of each channel. They never run on that goroutine, so they may block.
type Client struct {
	url  string
	cfg  ClientConfig
	dial clientDialer

	outbox   *durable.Outbox // nil without ClientConfig.Offline
	clientID string          // the connect parameter $client. Empty means that it is not sent
	ordered  atomic.Int64    // the last value of the connect parameter $order
	server   serverClock
	keys     key.Generator

	ctx    context.Context // canceled by Close
	cancel context.CancelFunc
	loop   *loop.Loop[clientItem]
	totals clientlink.Totals
	states watched[State]

	changes    streamset.Set[channel.Change] // of all channels
	callbacks  mailbox.Mailbox[clientCall]
	calls      clientlink.Gauge   // the items of callbacks
	oldestCall atomic.Int64       // when the first of them was enqueued, by backlog.Now
	goroutines clientlink.Tracker // all but the loop and those that run functions of the user
	isClosing  atomic.Bool
	closed     chan struct{}

	// For Stats.
	framesIn, framesOut, bytesIn, bytesOut, connections, garbage atomic.Uint64
	lastFrame, rtt                                               atomic.Int64
	current                                                      atomic.Pointer[clientConn]

	mu       sync.Mutex
	channels []clientlink.Channel // joined, joining and leaving; the slice is replaced, never changed

	// The following fields belong to the loop.
	wanted      Wanted
	ended       bool
	conn        *clientConn
	msg         serializer.Message // being received
	topics      map[string][]clientlink.Channel
	handles     clientHandles
	refs        uint64
	dials       uint64
	cancelDial  func()
	retry       loop.Timer
	backoff     int // attempts since a connection last held for clientStable; see Retry.Tries
	failed      int // attempts that failed in a row; see State.Tries
	denials     int
	entered     uint64 // pushes so far
	unanswered  int
	undelivered int // entries of the outbox
	flushes     []*clientFlush
	joins       *clientlink.JoinQueue
	joining     loop.Timer     // due when the queue of joins must be run
	draining    *clientFlush   // the wait of Close, if it was called
	barrier     serializer.Ref // of the heartbeat whose reply shows that the server has received everything
	barrierAt   uint64         // the value of entered when that heartbeat was sent
	settling    loop.Timer     // armed when that reply arrives
	probe       loop.Timer
	probes      uint64
	cancelProbe func()
	upgrade     dialResult // an open WebSocket that will replace long poll
	fallback    clientFallback
	progress    clientProgress
	progresses  clientProgresses
	clock       clientClock
	own         clientOwn
	auth        clientAuth // its states, token and fetches do not belong to the loop
	advice      clientAdvice
	move        clientMove
	moving      loop.Timer    // of move
	pings       []*clientPing // calls of Ping that wait for a reply
}

// Dial returns a client that is connected to the socket at url, such as "wss://example.com/socket".
// The schemes are ws, wss, http and https.
//
// Dial makes one attempt and returns its error. Later the client reconnects by itself. The context
// is for the first attempt only.
func Dial(ctx context.Context, url string, cfg *ClientConfig) (*Client, error) {
	return dialNew(ctx, NewClient(url, cfg))
}

func dialNew(ctx context.Context, c *Client) (*Client, error) {
	own, _ := c.states.stream(true)
	states := values(ctx, own)
	c.Connect()
	var err error
	for s := range states {
		if s.Status == StatusConnected {
			return c, nil
		}
		if s.Status >= StatusWaiting {
			err = s.Cause
			break
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(gone)
	return nil, fmt.Errorf("socket: dial: %w", err)
}

// NewClient returns a client that is not connected. Channels may be joined, and pushed to, before
// [Client.Connect] is called.
func NewClient(url string, cfg *ClientConfig) *Client {
	c := &Client{
		url:    url,
		cfg:    cfg.withDefaults(),
		dial:   dialClient,
		topics: make(map[string][]clientlink.Channel),
		closed: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.loop = loop.New(c.run, c.afterBatch)
	c.callbacks.Init(math.MaxInt, clientlink.Callbacks(c.dispatch))
	c.states.init(&c.totals, c.call)
	c.changes.Init(&c.totals, true)
	c.states.now.Since = time.Now()
	c.retry.Task = clientTask(c.retryDue)
	c.probe.Task = clientTask(c.probeDue)
	c.clock.timer.Task = clientTask(c.clockDue)
	c.clock.wall = wallClock
	c.clock.again.Task = clientTask(c.wake)
	c.clientID = c.cfg.ClientID
	c.server.base = time.Now()
	c.openOutbox()
	if c.clientID == "" && !c.cfg.NoSocketChannel {
		c.clientID = newClientID()
	}
	c.keys.Now = c.Now
	c.own.info.Store(&Info{ClientID: c.clientID})
	c.own.timer.Task = clientTask(c.ownDue)
	c.initAuth()
	c.moving.Task = clientTask(c.moveDue)
	c.joins = clientlink.NewJoinQueue(c.cfg.JoinConcurrency, c.startParams)
	c.joining.Task = clientTask(c.sendJoins)
	c.settling.Task = clientTask(c.settled)
	c.progress.timer.Task = clientTask(c.progressDue)
	c.progresses.timer.Task = clientTask(func() {}) // sendProgress follows
	return c
}

// Connect makes the client connect, and stay connected until Pause or Close. It ends a pause. A
// client that waits for its next attempt, was denied or has failed makes the next attempt
// immediately. Connect does not wait for the connection: see Ready.
func (c *Client) Connect() { c.post(clientTask(func() { c.setWanted(WantConnected) })) }

// Pause closes the connection until Connect is called. Channels join again then. Pushes wait
// meanwhile, and time out as usual. Over long poll the client first leaves its channels, which
// takes at most 2 s in the background.
func (c *Client) Pause() { c.post(clientTask(func() { c.setWanted(WantPaused) })) }

// Ready waits until the client is connected. It returns an error if the client will not connect by
// itself, because it is paused, denied, failed or closed.
func (c *Client) Ready(ctx context.Context) error {
	seen := make(chan *stream.Stream[State], 1) // made by the loop, after earlier calls such as Connect
	if !c.post(clientTask(func() { s, _ := c.states.stream(true); seen <- s })) {
		return fmt.Errorf("socket: %w", ErrClosed)
	}
	for s := range values(ctx, <-seen) {
		switch {
		case s.Wanted == WantClosed:
			return fmt.Errorf("socket: %w", ErrClosed)
		case s.Status == StatusConnected:
			return nil
		case s.Wanted == WantPaused:
			return fmt.Errorf("socket: %w", ErrPaused)
		case s.Status == StatusFailed, s.Status == StatusDenied && s.Until.IsZero():
			return fmt.Errorf("socket: %s: %w", s.Status, s.Cause)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("socket: %w", ErrClosed)
}

// Channel returns a new channel of the socket; its Join joins the topic. Params are the payload of
// the join: a Go value, a serializer.Payload, or a func(context.Context) (any, error), which is
// called for each join, may block and may fail. A value is encoded now. Only one channel at a time
// can be joined to a topic: see channel.ErrDuplicate, and [Client.Subscribe], which shares it.
func (c *Client) Channel(topic string, params any) *channel.Client {
	cfg := channelhost.ClientConfig{
		Prefix:      c.prefixFor(topic),
		Timeout:     c.cfg.Timeout,
		RejoinAfter: c.cfg.RejoinAfter,
		MaxBuffer:   c.cfg.MaxBuffer,
		MaxBacklog:  c.cfg.MaxBacklog,
		Outbox:      c.outbox,

		ManualRejoin: c.cfg.ManualRejoin,
	}
	return channelhost.NewClient(clientSocket{c}, topic, params, cfg).(*channel.Client)
}

// State returns the current state.
func (c *Client) State() State { return c.states.load() }

// OnState registers f, which is called with every change of the state, until off is called. A panic
// in f ends the program: see [ClientConfig].
func (c *Client) OnState(f func(State)) (off func()) { return c.states.on(f) }

// States returns the current state and all changes, until the client is closed or ctx ends. A
// caller that is too slow misses the oldest changes. See [Client.StateStream].
func (c *Client) States(ctx context.Context) iter.Seq[State] { return values(ctx, c.StateStream()) }

// Flush waits for the replies to all earlier pushes and leaves on all channels. For a reply that
// nobody waits for, by Wait, Done or Receive, it waits no longer than until one second after the
// server has received all of these pushes: such a push need not get a reply.
//
// It returns an error that wraps a [*FlushError] if pushes failed since the previous Flush. A push
// fails if it gets no reply that was waited for, or one whose status is not "ok". A canceled push
// is not a failure. If ctx ends first, the error wraps ctx's error, and a *FlushError if pushes
// failed until then. The end of ctx cancels no push.
func (c *Client) Flush(ctx context.Context) error {
	failures, stop := c.totals.Failed.Listen()
	defer stop()
	f := &clientFlush{done: make(chan struct{})}
	var err error
	if c.post(clientTask(func() { c.flush(f) })) {
		select {
		case <-f.done:
			if f.unanswered > 0 {
				err = fmt.Errorf("%d pushes are unanswered: %w", f.unanswered, ErrClosed)
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	stop()
	if failures.Failed > 0 {
		err = errors.Join(err, &FlushError{Failed: failures.Failed, Errors: failures.Errors})
	}
	if err != nil {
		return fmt.Errorf("socket: flush: %w", err)
	}
	return nil
}

// errBusy is returned by Close if functions of the user do not return.
var errBusy = errors.New("callbacks or functions of the configuration are still running")

// clientCloseGrace is how long Close waits for the client's goroutines after its context has ended.
const clientCloseGrace = 2 * time.Second

// Close ends the client. From now on, pushes fail.
//
// Unless the client is paused, denied or failed, Close first waits for replies until ctx ends. It
// waits for all replies that a caller waits for, by Wait, Done or Receive. For other replies it
// waits until one second after the server has received all pushes.
//
// Then Close closes the connection, with 1000 and ClientConfig.CloseReason, and all channels. It
// waits for callbacks and functions of the configuration. It returns an error if ctx ended before
// all replies, or if functions still run 2 s after ctx ended. If such a function calls Close, Close
// does not wait for functions.
func (c *Client) Close(ctx context.Context) error {
	inCallback := clientlink.InCallback()
	if c.isClosing.Swap(true) {
		if inCallback {
			return nil
		}
		select {
		case <-c.closed: // that Close may have been called by a callback, and then did not wait for it
			return c.waitIdle(ctx, true)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(c.closed)
	f := &clientFlush{done: make(chan struct{})}
	c.post(clientTask(func() { c.drain(f) }))
	var err error
	select {
	case <-f.done:
	case <-ctx.Done():
		err = fmt.Errorf("socket: close: pushes without a reply: %w", ctx.Err())
	}
	c.post(clientTask(c.end))
	if busy := c.waitIdle(ctx, !inCallback); busy != nil {
		return busy
	}
	return err
}

// waitIdle waits until the client's goroutines have ended. If all is true, it also waits for
// functions of the user.
func (c *Client) waitIdle(ctx context.Context, all bool) error {
	grace := time.NewTimer(0)
	defer grace.Stop()
	grace.Stop()
	expired := ctx.Done()
	for {
		var wait <-chan struct{} = c.loop.Done()
		select {
		case <-wait:
			if wait = c.goroutines.Idle(); wait == nil && all {
				if wait = c.totals.Running.Idle(); wait == nil { // it may have begun a commit
					wait = c.goroutines.Idle()
				}
			}
			if wait == nil {
				return nil
			}
		default:
		}
		select {
		case <-wait:
		case <-expired:
			expired = nil
			grace.Reset(clientCloseGrace)
		case <-grace.C:
			return fmt.Errorf("socket: close: %w", errBusy)
		}
	}
}

// drain starts the wait of Close for replies.
func (c *Client) drain(f *clientFlush) {
	active := c.wanted == WantConnected
	c.wanted = WantClosed
	c.setState(func(*State) {}, false)
	c.draining = f
	if c.outbox != nil {
		c.outbox.Stop()
	}
	c.flush(f)
	s := c.states.load()
	if !active || s.Status == StatusFailed || s.Status == StatusDenied && s.Until.IsZero() {
		c.flushed(true)
	}
}

// closing returns the reason why no more pushes are accepted, or nil.
func (c *Client) closing() error {
	if c.isClosing.Load() {
		return ErrClosed
	}
	return nil
}

func (c *Client) post(t loop.Task) bool { return c.loop.Post(clientItem{task: t}) }

// goUser runs f, which calls functions of the user, on a new goroutine.
func (c *Client) goUser(f func()) {
	c.totals.Running.Add()
	go clientlink.Callbacks(c.runUser)(f)
}

func (c *Client) runUser(f func()) {
	defer c.totals.Running.Done()
	f()
}

// clientCall is a callback of the client itself.
type clientCall struct {
	f  func()
	at time.Duration // when it was enqueued, by backlog.Now
}

// call enqueues a callback of the client itself.
func (c *Client) call(f func()) {
	c.totals.Running.Add()
	it := clientCall{f, backlog.Now()}
	if n, _ := c.calls.Load(); n == 0 {
		c.oldestCall.Store(int64(it.at))
	}
	c.calls.Add(1, 0)
	if c.callbacks.Enqueue(it, 0) != nil {
		c.calls.Add(-1, 0)
		c.totals.Running.Done()
	}
}

func (c *Client) dispatch(it clientCall) {
	c.oldestCall.Store(int64(it.at))
	defer c.calls.Add(-1, 0)
	c.runUser(it.f)
}
