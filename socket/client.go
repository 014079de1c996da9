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
	"bennu.example/internal/link"
	"bennu.example/internal/loop"
	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
)

// Client is a client's socket: one connection, made again whenever it is lost, and the channels on it.
//
// Its methods may be called from any goroutine, also from its callbacks, and only Ready, Flush and Close wait for anything. Callbacks
// (those of OnState and OnProgress here, and those of each channel) run one at a time and in order, never on the goroutine that keeps
// the connection alive: they may take their time. Close ends it.
type Client struct {
	url    string
	cfg    ClientConfig
	dial   clientDialer
	ctx    context.Context // of all that is done for the client
	cancel context.CancelFunc
	loop   *loop.Loop[clientItem]
	totals link.Totals
	states clientStates

	callbacks  mailbox.Mailbox[func()]
	goroutines link.Tracker // all but the loop and those that run the user's functions
	isClosing  atomic.Bool
	closed     chan struct{}

	// For Stats.
	framesIn, framesOut, bytesIn, bytesOut, connections, garbage atomic.Uint64
	lastFrame, rtt                                               atomic.Int64
	current                                                      atomic.Pointer[clientConn]

	mu       sync.Mutex
	channels []link.Down // those that are joined or on their way; never changed, only replaced

	// The loop's.
	wanted      Wanted
	ended       bool
	conn        *clientConn
	msg         serializer.Message // being received
	topics      map[string][]link.Down
	refs        uint64
	dials       uint64
	cancelDial  func()
	retry       loop.Timer
	backoff     int // attempts since a connection last held for clientStable; see ClientConfig.ReconnectDelay
	failed      int // attempts that failed in a row; see State.Tries
	denials     int
	entered     uint64 // pushes so far
	unanswered  int
	flushes     []*clientFlush
	turns       []*clientTurn  // of clientUp.Go, in order
	turn        loop.Timer     // runs when the first of them has been waited for long enough
	draining    *clientFlush   // Close's
	barrier     serializer.Ref // of the heartbeat that shows that all was received; null: none
	barrierAt   uint64         // entered when it was sent
	settling    loop.Timer     // runs when that has been shown
	probe       loop.Timer
	probes      uint64
	cancelProbe func()
	better      clientDialed
	doubt       clientDoubt
	progress    clientProgress
	clock       clientClock
}

// Dial connects to the socket that is mounted at url ("wss://example.com/socket"; http and https will do as well) and returns the client, or why
// that failed. Later connections are made by themselves. The context is for the first only.
func Dial(ctx context.Context, url string, cfg *ClientConfig) (*Client, error) {
	return dialNew(ctx, NewClient(url, cfg))
}

func dialNew(ctx context.Context, c *Client) (*Client, error) {
	states := c.States(ctx)
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

// NewClient returns a client that is not connected yet. Channels may be joined, and pushed to, before [Client.Connect] is called.
func NewClient(url string, cfg *ClientConfig) *Client {
	c := &Client{url: url, cfg: cfg.withDefaults(), dial: dialClient, topics: make(map[string][]link.Down), closed: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.loop = loop.New(c.run, c.rested)
	c.callbacks.Init(math.MaxInt, link.Callbacks(c.runUser))
	c.states.call = c.call
	c.states.now.Since = time.Now()
	c.retry.Task = clientTask(c.retryDue)
	c.probe.Task = clientTask(c.probeDue)
	c.clock.timer.Task = clientTask(c.clockDue)
	c.clock.wall = wallClock
	c.turn.Task = clientTask(c.turnDue)
	c.settling.Task = clientTask(c.settled)
	c.progress.timer.Task = clientTask(c.progressDue)
	return c
}

// Connect has the client connect, and stay connected until Pause or Close. If it waits before the next attempt, was denied or
// failed, the next attempt is made at once. It does not wait: see Ready.
func (c *Client) Connect() { c.post(clientTask(func() { c.want(WantConnected) })) }

// Pause ends the connection until Connect. Channels stay, and join again then; pushes wait, and time out as always.
// Over long poll the channels are left first, which takes at most two seconds in the background.
func (c *Client) Pause() { c.post(clientTask(func() { c.want(WantPaused) })) }

// Ready waits until the client is connected. It returns the cause if that will not be without somebody's doing: the client is paused,
// denied, failed or closed.
func (c *Client) Ready(ctx context.Context) error {
	seen := make(chan *stateStream, 1) // from the loop: after what was asked for before, Connect among it
	if !c.post(clientTask(func() { seen <- c.states.stream() })) {
		return fmt.Errorf("socket: %w", ErrClosed)
	}
	for s := range (<-seen).all(ctx) {
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

// Channel returns a channel of the socket, to be joined by its Join. Params are the payload of the join: a Go value, a
// serializer.Payload, or a func(context.Context) (any, error) that is called for every join, may block and may fail. A value is encoded
// now. Every call makes another channel, but only one can have a topic: see channel.ErrDuplicate.
func (c *Client) Channel(topic string, params any) *channel.Client {
	return channel.NewClient(clientUp{c}, topic, params, channel.ClientConfig{
		Timeout:     c.cfg.Timeout,
		RejoinAfter: c.cfg.RejoinAfter,
		MaxBuffer:   c.cfg.MaxBuffer,
		MaxBacklog:  c.cfg.MaxBacklog,
	})
}

// State is the client's state now.
func (c *Client) State() State { return c.states.load() }

// OnState has f called with every change of the state from now on. A panic in f ends the program: see [ClientConfig].
func (c *Client) OnState(f func(State)) (off func()) { return c.states.on(f) }

// States returns the state now and every change from now on, until the client is closed or ctx ends. Who takes too long misses the
// older ones.
func (c *Client) States(ctx context.Context) iter.Seq[State] { return c.states.stream().all(ctx) }

// Flush waits until everything that was pushed before, on any channel, has its answer; leaves count as well. It returns an error if
// ctx ends first, and if pushes failed since the Flush before: joined, the first eight of them, and the number of the others. A push
// fails if it gets no reply. A reply with any status is an answer, and a canceled push is no failure.
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
	if err = errors.Join(err, failures.Err()); err != nil {
		return fmt.Errorf("socket: flush: %w", err)
	}
	return nil
}

// errBusy is what Close returns if the user's functions do not end.
var errBusy = errors.New("callbacks or functions of the configuration are still running")

// clientCloseGrace is how long Close waits for what must end soon after its context has ended.
const clientCloseGrace = 2 * time.Second

// Close ends the client. It takes no more pushes, and deals with those it has until ctx ends (unless it is paused, denied or failed): it
// waits for the answers that somebody waits for (by Wait, Done or Receive), and of the rest for those that come within a second of a sign
// that the server has received it all. Then it closes the connection and all channels, and returns when nothing runs any more, callbacks
// and functions of the configuration included. It returns an error if ctx ended before that was done, or if these still run two seconds
// after it ended. If a callback or a function of the configuration calls Close,
// Close does not wait for these functions.
func (c *Client) Close(ctx context.Context) error {
	inCallback := link.InCallback()
	if c.isClosing.Swap(true) {
		if inCallback {
			return nil
		}
		select {
		case <-c.closed: // maybe by one that was called from a callback, and did not wait for it
			return c.quiet(ctx, true)
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
		err = fmt.Errorf("socket: close: pushes were given up: %w", ctx.Err())
	}
	c.post(clientTask(c.end))
	if busy := c.quiet(ctx, !inCallback); busy != nil {
		return busy
	}
	return err
}

// quiet waits until nothing of the client runs any more, with all also none of the user's functions.
func (c *Client) quiet(ctx context.Context, all bool) error {
	grace := time.NewTimer(0)
	defer grace.Stop()
	grace.Stop()
	expired := ctx.Done()
	for {
		var wait <-chan struct{} = c.loop.Done()
		select {
		case <-wait:
			if wait = c.goroutines.Idle(); wait == nil && all {
				wait = c.totals.Running.Idle()
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

// drain is Close's wait for answers.
func (c *Client) drain(f *clientFlush) {
	active := c.wanted == WantConnected
	c.wanted = WantClosed
	c.setState(func(*State) {}, false)
	c.draining = f
	c.flush(f)
	s := c.states.load()
	if !active || s.Status == StatusFailed || s.Status == StatusDenied && s.Until.IsZero() {
		c.flushed(true)
	}
}

// closing is why no more pushes are taken, or nil.
func (c *Client) closing() error {
	if c.isClosing.Load() {
		return ErrClosed
	}
	return nil
}

func (c *Client) post(t loop.Task) bool { return c.loop.Post(clientItem{task: t}) }

// goUser runs what calls the user's functions, and is no callback, on a goroutine of its own.
func (c *Client) goUser(f func()) {
	c.totals.Running.Add()
	go link.Callbacks(c.runUser)(f)
}

func (c *Client) runUser(f func()) {
	defer c.totals.Running.Done()
	f()
}

// call queues a callback of the client itself.
func (c *Client) call(f func()) {
	c.totals.Running.Add()
	if c.callbacks.Enqueue(f, 0) != nil {
		c.totals.Running.Done()
	}
}
