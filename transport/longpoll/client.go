package longpoll

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

// DialLongPoll opens a long-poll session. The context bounds the opening request only. The error is, by errors.As, a
// *HandshakeError if the server answered anything but a session.
func Dial(ctx context.Context, cfg transport.ClientConfig) (transport.ClientConn, error) {
	cfg = dial.WithDefaults(cfg)
	u, err := dial.Endpoint(&cfg, "longpoll", "http", "https")
	if err != nil {
		return nil, err
	}
	c := &clientConn{
		url:          u,
		auth:         cfg.AuthToken,
		timeout:      cfg.RequestTimeout,
		pollTimeout:  cfg.PollTimeout,
		closeTimeout: cfg.CloseTimeout,
		maxMessage:   cfg.MaxMessage,
		writing:      make(chan struct{}, 1),
		in:           make(chan lpFrames),
		closing:      make(chan struct{}),
		closed:       make(chan struct{}),
		done:         make(chan struct{}),
		stopped:      make(chan struct{}),
		settled:      make(chan struct{}),
	}
	c.header, c.host = dial.RequestHeader(cfg.Header)
	hc, own := dial.HTTPClient(&cfg)
	hc.Timeout = 0 // of any request, which a poll would exceed
	c.http = hc
	if own != nil {
		c.own = dial.Track(own)
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

// lpClient is a ClientConn on a long-poll session. One goroutine polls for as long as the session lives. Writers post.
type clientConn struct {
	http   *http.Client
	own    *dial.Conns // closed with the session; nil if the user's RoundTripper cannot be cloned
	header http.Header // the user's, for every request
	host   string
	auth   string

	timeout, pollTimeout, closeTimeout time.Duration
	maxMessage                         int64

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
	stopped  chan struct{} // closed when the goroutine that polls has ended
	writing  chan struct{} // of size 1, full during a Write

	mu      sync.Mutex
	err     error // why the session is over
	url     *url.URL
	token   lpToken
	settled chan struct{} // closed when it is known whether the token arrives by header
}

// errLPPartial is what Close returns when it could not post everything in time.
var errLPPartial = errors.New("not all that was written has been sent")

func (c *clientConn) Bytes() (in, out uint64) { return c.bytesIn.Load(), c.bytesOut.Load() }

func (c *clientConn) Read() (serializer.Op, []byte, error) {
	for {
		select {
		case <-c.closing:
			return 0, nil, transport.ErrClosed
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
func (c *clientConn) over() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail ends the session for the given reason, if it has not ended.
func (c *clientConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
		c.cancel()
	}
}

func (c *clientConn) Close(int, string) error {
	if c.begin() {
		c.closeErr = c.drain()
		c.fail(transport.ErrClosed)
		c.wait()
		c.release()
		close(c.closed)
	}
	<-c.closed
	return c.closeErr
}

// begin begins to close, after which no Write begins. It reports whether it was the first to.
func (c *clientConn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		return false
	default:
	}
	close(c.closing)
	return true
}

// drain waits for the Write that is in progress.
func (c *clientConn) drain() error {
	late := time.NewTimer(c.closeTimeout)
	defer late.Stop()
	select {
	case c.writing <- struct{}{}:
		<-c.writing
	case <-c.done:
	case <-late.C:
		return fmt.Errorf("transport: close: %w", errLPPartial)
	}
	return nil
}

// wait waits until no request is under way, but not for a transport of the user's that ignores its context.
func (c *clientConn) wait() {
	late := time.NewTimer(c.closeTimeout)
	defer late.Stop()
	select {
	case <-c.stopped:
	case <-late.C:
		return
	}
	select {
	case c.writing <- struct{}{}:
		<-c.writing
	case <-late.C:
	}
}

// release closes the connections.
func (c *clientConn) release() {
	if c.own != nil {
		c.own.CloseAll()
	} else {
		c.http.CloseIdleConnections() // so that the next session does not use one that is dead
	}
}
