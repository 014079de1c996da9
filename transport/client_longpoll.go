package transport

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/serializer"
)

// DialLongPoll opens a long-poll session. The context bounds the opening request only. The error is, by errors.As, a
// *HandshakeError if the server answered anything but a session.
func DialLongPoll(ctx context.Context, cfg ClientConfig) (ClientConn, error) {
	cfg = cfg.withDefaults()
	u, err := cfg.endpoint("longpoll", "http", "https")
	if err != nil {
		return nil, err
	}
	c := &lpClient{
		url:          u,
		auth:         cfg.AuthToken,
		timeout:      cfg.RequestTimeout + cfg.Window,
		writeTimeout: cfg.WriteTimeout,
		closeTimeout: cfg.CloseTimeout,
		maxMessage:   cfg.MaxMessage,
		maxQueue:     cfg.MaxQueue,
		in:           make(chan lpFrames),
		closing:      make(chan struct{}),
		closed:       make(chan struct{}),
		done:         make(chan struct{}),
		stopped:      make(chan struct{}),
		settled:      make(chan struct{}),
		running:      1,
	}
	c.header, c.host = clientRequestHeader(cfg.Header)
	hc, own := cfg.client()
	hc.Timeout = 0 // of any request, which a poll would exceed
	c.http = hc
	if own != nil {
		c.own = trackClientConns(own)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.open(ctx); err != nil {
		c.cancel()
		c.release()
		return nil, err
	}
	go c.poll()
	return c, nil
}

// lpClient is a ClientConn on a long-poll session. One goroutine polls for as long as the session lives; another posts while there
// is something to post.
type lpClient struct {
	http   *http.Client
	own    *clientConns // closed with the session; nil if the user gave a transport
	header http.Header  // the user's, for every request
	host   string
	auth   string

	timeout, writeTimeout, closeTimeout time.Duration
	maxMessage                          int64
	maxQueue                            int

	bytesIn, bytesOut atomic.Uint64

	ctx    context.Context // of the session's requests
	cancel context.CancelFunc

	// An answer goes from the poll to Read hand to hand: until Read has come for it there is no further poll, so at most two
	// answers are held here, and a client that does not read slows its server down.
	in   chan lpFrames
	rest lpFrames // of an answer; Read's own

	closing  chan struct{} // closed when Close begins
	closed   chan struct{} // and when it ends
	closeErr error
	done     chan struct{} // closed when err is set
	stopped  chan struct{} // closed when err is set and the goroutines have ended

	mu      sync.Mutex
	err     error // why the session is over
	running int   // goroutines
	url     *url.URL
	token   lpToken
	settled chan struct{} // closed when it is known whether the token arrives by header

	queue   []*serializer.Frame // to be posted
	queued  int                 // bytes of the queue and of what is being posted
	posting bool
	changed chan struct{} // closed when queued or posting changes; made by those who wait
}

// errLPPartial is what Close returns when it could not post everything in time.
var errLPPartial = errors.New("not all that was written has been sent")

func (c *lpClient) Heartbeats() bool { return false }

func (c *lpClient) Bytes() (in, out uint64) { return c.bytesIn.Load(), c.bytesOut.Load() }

func (c *lpClient) Read() (serializer.Op, []byte, error) {
	for {
		select {
		case <-c.closing:
			return 0, nil, ErrClosed
		default:
		}
		if len(c.rest) > 0 {
			f := c.rest[0]
			c.rest[0] = lpFrame{}
			c.rest = c.rest[1:]
			return f.op, f.data, nil
		}
		select {
		case c.rest = <-c.in:
		case <-c.closing:
		case <-c.done:
			return 0, nil, c.over()
		}
	}
}

// over is why the session is over, or nil.
func (c *lpClient) over() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *lpClient) Write(frames ...*serializer.Frame) error {
	size := 0
	for _, f := range frames {
		size += postedSize(f)
	}
	var late <-chan time.Time
	for {
		free, err := c.enqueue(frames, size)
		if free == nil {
			return err
		}
		if late == nil {
			t := time.NewTimer(c.writeTimeout)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-free:
		case <-late:
			c.fail(clientCloseError(lpCodeTimeout, "timeout", fmt.Errorf("transport: write: %w", os.ErrDeadlineExceeded)))
			return c.over()
		}
	}
}

// enqueue takes frames if there is room for them. If not then it returns what will be closed when that may have changed.
func (c *lpClient) enqueue(frames []*serializer.Frame, size int) (free <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		return nil, ErrClosed
	default:
	}
	if c.err != nil {
		return nil, c.err
	}
	if c.queued > 0 && c.queued+size > c.maxQueue {
		return c.change(), nil
	}
	if len(frames) == 0 {
		return nil, nil
	}
	c.queue = append(c.queue, frames...)
	c.queued += size
	if !c.posting {
		c.posting = true
		c.running++
		go c.post()
	}
	return nil, nil
}

// change returns what is closed at the next change of queued or posting, or when the session is over. With mu held.
func (c *lpClient) change() <-chan struct{} {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// wake tells those who wait for a change. With mu held.
func (c *lpClient) wake() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// fail ends the session for the given reason, if it has not ended.
func (c *lpClient) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		c.queue = nil
		close(c.done)
		c.wake()
		c.cancel()
	}
}

// exit is the end of a goroutine. The one that polls does not end before the session is over.
func (c *lpClient) exit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.running == 0 {
		close(c.stopped)
	}
}

func (c *lpClient) Close(int, string) error {
	if c.begin() {
		c.closeErr = c.drain()
		c.fail(ErrClosed)
		late := time.NewTimer(c.closeTimeout)
		defer late.Stop()
		select {
		case <-c.stopped:
		case <-late.C: // a transport of the user's that does not heed its context
		}
		c.release()
		close(c.closed)
	}
	<-c.closed
	return c.closeErr
}

// begin begins to close, after which no Write takes anything. It reports whether it was the first to.
func (c *lpClient) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		return false
	default:
	}
	close(c.closing)
	c.wake()
	return true
}

// drain waits until all is posted.
func (c *lpClient) drain() error {
	late := time.NewTimer(c.closeTimeout)
	defer late.Stop()
	for {
		c.mu.Lock()
		posting, changed := c.posting && c.err == nil, c.change()
		c.mu.Unlock()
		if !posting {
			return nil
		}
		select {
		case <-changed:
		case <-late.C:
			return fmt.Errorf("transport: close: %w", errLPPartial)
		}
	}
}

// release closes the connections.
func (c *lpClient) release() {
	if c.own != nil {
		c.own.closeAll()
	}
}
