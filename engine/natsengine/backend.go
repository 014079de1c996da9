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

	// writeBuffer is the size of the client's write buffer.
	writeBuffer = 64 << 10

	// maxParsed is the number of messages that fit into the client's read buffer, which has 32 KiB.
	maxParsed = 4096
)

var (
	errClosed  = errors.New("the connection was closed")
	errServers = errors.New("the servers of the cluster have changed")
)

// backend implements broker.Backend for NATS.
type backend struct {
	prefix  string
	timeout time.Duration
	opts    nats.Options
	servers []*url.URL
	secrets []string // texts that no error may contain
	dials   int
}

func (b *backend) configure(cfg Config) error {
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
	b.servers, b.secrets = servers, append(secrets, optionSecrets(&o)...)
	o.Url, o.NoRandomize = "", true
	o.SkipHostLookup = true // the dialer resolves names
	o.Compression = false   // the contents of WebSocket frames are checked
	// Each connection is used until it is lost. The client's own way of reconnecting may send messages
	// twice, and does not report which messages were lost.
	o.AllowReconnect, o.RetryOnFailedConnect = false, false
	o.NoEcho = true
	o.Timeout, o.FlusherTimeout = b.timeout, b.timeout
	o.PingInterval = 0 // the broker checks the connection
	o.WriteBufferSize = writeBuffer
	o.ConnectedCB, o.ReconnectedCB, o.DisconnectedCB, o.DisconnectedErrCB = nil, nil, nil, nil
	b.opts = o
	return nil
}

// Channel implements broker.Backend.
func (b *backend) Channel(kind broker.Kind, name string) string {
	return b.prefix + "." + string(kind) + "." + token(name)
}

// Dial implements broker.Backend.
func (b *backend) Dial(ctx context.Context, r broker.Receiver) (broker.Conn, error) {
	c, err := b.connect(ctx, receiver{
		message: func(m *nats.Msg) { r.Message(m.Data) }, gap: r.Gap, pathChanged: r.PathChanged,
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// receiver contains the functions that a connection calls, as those of broker.Receiver.
type receiver struct {
	message     func(m *nats.Msg)
	gap         func(reason error)
	pathChanged func(reason error)
}

// connect makes a connection for the adapter or for the log.
func (b *backend) connect(ctx context.Context, r receiver) (*conn, error) {
	c := &conn{
		receiver: r,
		subs:     make(map[string]*nats.Subscription),
		parsed:   make(chan *nats.Msg, maxParsed),
		lost:     make(chan error, 1),
		ended:    make(chan struct{}),
	}
	opts := b.opts
	opts.Servers = b.nextServers()
	d := dialer{ctx: ctx, conn: c, backend: b}
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

// conn is a connection that is used until it is lost.
type conn struct {
	nc       *nats.Conn
	receiver receiver
	subs     map[string]*nats.Subscription // by subject
	lost     chan error
	ended    chan struct{}  // closed when the client has called its last handler
	parsed   chan *nats.Msg // messages that the client has parsed; see wire.Read
	servers  []string       // as announced by the server, sorted; owned by the reading goroutine

	mu     sync.Mutex
	raw    net.Conn
	failed error // why the connection is lost
	closed bool
}

// Send implements broker.Conn.
func (c *conn) Send(ctx context.Context, b *broker.Batch) error {
	err := c.send(ctx, b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil { // the cause of the client's error
		return c.failed
	}
	return err
}

func (c *conn) send(ctx context.Context, b *broker.Batch) error {
	stop := context.AfterFunc(ctx, c.cut) // the client's writes do not observe a context
	defer stop()
	for _, subject := range b.Subscribe {
		if err := c.subscribe(subject); err != nil {
			return err
		}
	}
	for _, subject := range b.Unsubscribe {
		if err := c.unsubscribe(subject); err != nil {
			return err
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
	// If the server refused something, it sent the error before its answer. The error handler may run
	// later, and another error may then be the client's last one.
	err := c.nc.LastError()
	if errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
		return err
	}
	return nil
}

// subscribe subscribes to a subject, unless it did before. It does not wait for the server.
func (c *conn) subscribe(subject string) error {
	if c.subs[subject] != nil {
		return nil
	}
	sub, err := c.nc.ChanSubscribe(subject, c.parsed)
	if err == nil {
		c.subs[subject] = sub
	}
	return err
}

// unsubscribe ends a subscription, if there is one.
func (c *conn) unsubscribe(subject string) error {
	sub := c.subs[subject]
	if sub == nil {
		return nil
	}
	delete(c.subs, subject)
	return sub.Unsubscribe()
}

// MaxMessage implements broker.Conn.
func (c *conn) MaxMessage() int { return int(c.nc.MaxPayload()) }

// Lost implements broker.Conn.
func (c *conn) Lost() <-chan error { return c.lost }

// Close implements broker.Conn.
func (c *conn) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cut()
	c.nc.Close()
	<-c.ended
}

// cut closes the network connection, so that no call of the client blocks any longer.
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

// onInfo handles the server's description of itself. The server sends it again when the servers of
// its cluster have changed. When a route between servers is lost, messages on it are lost too, and
// it takes a moment until subscriptions reach a new server.
func (c *conn) onInfo(data []byte) {
	var server info
	if json.Unmarshal(data, &server) != nil {
		return
	}
	slices.Sort(server.ConnectURLs)
	if c.servers != nil && !slices.Equal(c.servers, server.ConnectURLs) {
		c.receiver.pathChanged(errServers)
	}
	c.servers = append([]string{}, server.ConnectURLs...)
}

// onError handles errors that the client cannot return from a call.
func (c *conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		c.receiver.gap(err)
	case sub != nil: // a message with an invalid header, which is delivered nevertheless
	default: // an error of the server, such as a missing permission, or of a write
		c.fail(err)
	}
}

// onClosed is the last handler that the client calls.
func (c *conn) onClosed(nc *nats.Conn) {
	c.fail(cmp.Or(nc.LastError(), errClosed))
	close(c.ended)
}
