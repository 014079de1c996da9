package natsengine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/broker"
)

const (
	defaultTimeout = 5 * time.Second

	// writeBuffer is how much the client gathers for one write.
	writeBuffer = 64 << 10

	// maxParsed is room for all messages that the client can make of what it reads at once, 32 KiB.
	maxParsed = 4096
)

var (
	errClosed  = errors.New("the connection was closed")
	errServers = errors.New("the servers of the cluster have changed")
)

// engine is NATS as a relay sees it.
type engine struct {
	prefix  string
	timeout time.Duration
	opts    nats.Options
	servers []*url.URL
	secrets []string // that no error may show
	dials   int
}

func (e *engine) configure(cfg Config) error {
	o := nats.GetDefaultOptions()
	o.Url = cmp.Or(cfg.URL, nats.DefaultURL)
	o.Name = cfg.Name
	for _, opt := range cfg.Options {
		if err := opt(&o); err != nil {
			return err
		}
	}
	servers, secrets, err := parseServers(o.Url, !o.NoRandomize)
	if err != nil {
		return err
	}
	e.servers, e.secrets = servers, append(secrets, optionSecrets(&o)...)
	o.Url, o.NoRandomize = "", true
	o.SkipHostLookup = true // the dialer does it
	o.Compression = false   // what is in a WebSocket is checked
	// Each connection is used until it is lost. The client's own ways to go on after that may send twice, and do not tell what was lost.
	o.AllowReconnect, o.RetryOnFailedConnect = false, false
	o.NoEcho = true
	o.Timeout, o.FlusherTimeout = e.timeout, e.timeout
	o.PingInterval = 0 // the relay asks
	o.WriteBufferSize = writeBuffer
	o.ConnectedCB, o.ReconnectedCB, o.DisconnectedCB, o.DisconnectedErrCB = nil, nil, nil, nil
	e.opts = o
	return nil
}

// Channel is part of broker.Engine.
func (e *engine) Channel(kind broker.Kind, name string) string {
	return e.prefix + "." + string(kind) + "." + token(name)
}

// Dial is part of broker.Engine.
func (e *engine) Dial(ctx context.Context, in broker.In) (broker.Conn, error) {
	c := &conn{
		in:     in,
		subs:   make(map[string]*nats.Subscription),
		parsed: make(chan *nats.Msg, maxParsed),
		lost:   make(chan error, 1),
		ended:  make(chan struct{}),
	}
	opts := e.opts
	opts.Servers = e.next()
	d := dialer{ctx: ctx, conn: c, engine: e}
	opts.CustomDialer = d
	if opts.InProcessServer != nil {
		opts.InProcessServer = d
	}
	opts.AsyncErrorCB = c.onError
	opts.ClosedCB = c.onClosed
	stop := context.AfterFunc(ctx, c.cut)
	defer stop()
	nc, err := opts.Connect()
	if err != nil {
		c.cut()
		return nil, err
	}
	c.nc = nc
	return c, nil
}

// conn is a connection, used until it is lost.
type conn struct {
	nc    *nats.Conn
	in    broker.In
	subs  map[string]*nats.Subscription // by subject
	lost  chan error
	ended chan struct{} // closed when the client has called its last handler

	// What the client parsed; see wire.Read.
	parsed chan *nats.Msg

	servers []string // that the server told, sorted; used by its reading goroutine

	mu     sync.Mutex
	raw    net.Conn
	failed error // why it is lost
	closed bool
}

// Send is part of broker.Conn.
func (c *conn) Send(ctx context.Context, b *broker.Batch) error {
	err := c.send(ctx, b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil { // which is why the client failed
		return c.failed
	}
	return err
}

func (c *conn) send(ctx context.Context, b *broker.Batch) error {
	stop := context.AfterFunc(ctx, c.cut) // the client's writes know no context
	defer stop()
	for _, subject := range b.Subscribe {
		if c.subs[subject] != nil {
			continue
		}
		sub, err := c.nc.ChanSubscribe(subject, c.parsed)
		if err != nil {
			return err
		}
		c.subs[subject] = sub
	}
	for _, subject := range b.Unsubscribe {
		if sub := c.subs[subject]; sub != nil {
			delete(c.subs, subject)
			if err := sub.Unsubscribe(); err != nil {
				return err
			}
		}
	}
	for _, m := range b.Messages {
		if err := c.nc.Publish(m.Channel, m.Data); err != nil {
			return err
		}
	}
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	// What the server refused it told before it answered. The handler may come later, and the client's last error be another one by then.
	if err := c.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
		return err
	}
	return nil
}

// MaxMessage is part of broker.Conn.
func (c *conn) MaxMessage() int { return int(c.nc.MaxPayload()) }

// Lost is part of broker.Conn.
func (c *conn) Lost() <-chan error { return c.lost }

// Close is part of broker.Conn.
func (c *conn) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cut()
	c.nc.Close()
	<-c.ended
}

// cut ends the connection under the client, so that nothing that it does waits any more.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.raw != nil {
		_ = c.raw.Close()
	}
}

func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.failed == nil {
		c.failed = err
		c.lost <- err
	}
	c.mu.Unlock()
	c.cut()
}

// onInfo takes the server's description of itself, which it sends again when the servers of its cluster have changed. Messages on their
// way between servers are lost when a route is, and subscriptions take a moment to reach a new one.
func (c *conn) onInfo(data []byte) {
	var server info
	if json.Unmarshal(data, &server) != nil {
		return
	}
	slices.Sort(server.ConnectURLs)
	if c.servers != nil && !slices.Equal(c.servers, server.ConnectURLs) {
		c.in.Changed(errServers)
	}
	c.servers = append([]string{}, server.ConnectURLs...)
}

// onError takes what the client cannot tell by a result.
func (c *conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		c.in.Gap(err)
	case sub != nil: // a message with a bad header: it came nevertheless
	default: // an error of the server, such as no permission, or of a write
		c.fail(err)
	}
}

// onClosed is the last handler that the client calls.
func (c *conn) onClosed(nc *nats.Conn) {
	c.fail(cmp.Or(nc.LastError(), errClosed))
	close(c.ended)
}
