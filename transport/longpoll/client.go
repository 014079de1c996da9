package longpoll

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

// Dial opens a long-poll session. The context bounds the opening request only. If the server
// answers anything but a session, errors.As finds a *transport.HandshakeError in the error.
func Dial(ctx context.Context, cfg *transport.ClientConfig) (transport.ClientConn, error) {
	config := dial.WithDefaults(*cfg)
	u, err := dial.Endpoint(&config, "longpoll", "http", "https")
	if err != nil {
		return nil, err
	}
	c := &clientConn{
		url:          u,
		auth:         config.AuthToken,
		timeout:      config.RequestTimeout,
		pollTimeout:  config.PollTimeout,
		closeTimeout: config.CloseTimeout,
		maxMessage:   config.MaxMessage,
		writing:      make(chan struct{}, 1),
		in:           make(chan clientFrames),
		closing:      make(chan struct{}),
		closed:       make(chan struct{}),
		done:         make(chan struct{}),
		stopped:      make(chan struct{}),
		settled:      make(chan struct{}),
	}
	c.header, c.host = dial.RequestHeader(config.Header)
	hc, own := dial.HTTPClient(&config)
	hc.Timeout = 0 // it would bound polls, which have a timeout of their own
	c.http = hc
	if own != nil {
		c.own = dial.Track(own)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.open(ctx); err != nil {
		c.cancel()
		c.closeConnections()
		return nil, err
	}
	go c.poll()
	return c, nil
}

// clientConn is the ClientConn of a long-poll session. One goroutine polls while the session lives.
// Callers of Write make the POSTs.
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

	// The channel in has no buffer. The next poll begins when Read has received the answer of the
	// one before. So at most two answers are in memory, and a client that does not read slows the
	// server down.
	in   chan clientFrames
	rest clientFrames // of an answer; only Read uses it

	closing  chan struct{} // closed when Close begins
	closed   chan struct{} // closed when Close ends
	closeErr error
	done     chan struct{} // closed when err is set
	stopped  chan struct{} // closed when the goroutine that polls has ended
	writing  chan struct{} // of capacity 1; full during a Write

	mu      sync.Mutex
	err     error // the reason why the session has ended
	url     *url.URL
	token   clientToken
	settled chan struct{} // closed when it is known whether the server reads the token's header
}

// errUnsent is returned by Close if a Write did not end in time.
var errUnsent = errors.New("longpoll: close: not all frames were sent")

// Bytes implements transport.ClientConn.
func (c *clientConn) Bytes() (in, out uint64) { return c.bytesIn.Load(), c.bytesOut.Load() }

// Read implements transport.ClientConn.
func (c *clientConn) Read() (serializer.Op, []byte, error) {
	for {
		select {
		case <-c.closing:
			return 0, nil, transport.ErrClosed
		default:
		}
		if len(c.rest) > 0 {
			f := c.rest[0]
			c.rest[0] = clientFrame{}
			c.rest = c.rest[1:]
			return f.op, f.data, nil
		}
		select {
		case c.rest = <-c.in:
		case <-c.closing:
		case <-c.done:
			return 0, nil, c.reason()
		}
	}
}

// reason returns why the session has ended, or nil.
func (c *clientConn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail ends the session for the given reason, unless it has ended.
func (c *clientConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
		c.cancel()
	}
}

// Close implements transport.ClientConn.
func (c *clientConn) Close(int, string) error {
	if c.beginClose() {
		c.closeErr = c.awaitWrite()
		c.fail(transport.ErrClosed)
		c.awaitRequests()
		c.closeConnections()
		close(c.closed)
	}
	<-c.closed
	return c.closeErr
}

// beginClose makes further Writes fail. It reports whether it is the first call.
func (c *clientConn) beginClose() bool {
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

// awaitWrite waits for the Write that is in progress.
func (c *clientConn) awaitWrite() error {
	timeout := time.NewTimer(c.closeTimeout)
	defer timeout.Stop()
	select {
	case c.writing <- struct{}{}:
		<-c.writing
	case <-c.done:
	case <-timeout.C:
		return errUnsent
	}
	return nil
}

// awaitRequests waits until no request is in progress. It gives up after closeTimeout, because the
// user's RoundTripper may ignore its context.
func (c *clientConn) awaitRequests() {
	timeout := time.NewTimer(c.closeTimeout)
	defer timeout.Stop()
	select {
	case <-c.stopped:
	case <-timeout.C:
		return
	}
	select {
	case c.writing <- struct{}{}:
		<-c.writing
	case <-timeout.C:
	}
}

// closeConnections closes the network connections.
func (c *clientConn) closeConnections() {
	if c.own != nil {
		c.own.CloseAll()
	} else {
		c.http.CloseIdleConnections() // the next session must not use a dead one
	}
}
