package redisengine

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker"
)

const (
	// buffer is the size of a connection's read buffer and of its write buffer. The client's default
	// is 512 KiB each.
	buffer = 64 << 10

	// ring is the binary logarithm of the number of calls in a connection's pipeline. There is one
	// call at a time, and the client's own pings.
	ring = 3

	// keepAlive is the interval at which the client itself checks its connections. It has a second one
	// that carries nothing else.
	keepAlive = 30 * time.Second
)

// backend implements broker.Backend for Redis, and connects the log. Except for Channel, its
// methods are called by the goroutine of one Run.
type backend struct {
	prefix  string
	timeout time.Duration
	bulk    int64 // the longest string that is accepted
	opts    rueidis.ClientOption
	dials   int
	primary string // the primary that a replica named; empty if unknown or not reachable
}

func newBackend(prefix string, timeout time.Duration, queue int, o rueidis.ClientOption) *backend {
	o.ForceSingleClient = true
	o.ReplicaOnly, o.SendToReplicas, o.Standalone = false, nil, rueidis.StandaloneOption{}
	o.DisableCache = true
	o.DisableRetry = true // it would send commands twice
	o.DisableAutoPipelining = false
	o.MaxFlushDelay = 0
	o.ConnLifetime = 0
	o.PipelineMultiplex = -1
	o.ConnWriteTimeout, o.Dialer.Timeout = timeout, timeout
	o.Dialer.KeepAlive = cmp.Or(o.Dialer.KeepAlive, keepAlive)
	o.ReadBufferEachConn = cmp.Or(o.ReadBufferEachConn, buffer)
	o.WriteBufferEachConn = cmp.Or(o.WriteBufferEachConn, buffer)
	o.RingScaleEachConn = ring
	if o.ClientSetInfo == nil {
		o.ClientSetInfo = rueidis.DisableClientSetInfo // it requires one more permission, and Redis 7.2
	}
	return &backend{prefix: prefix, timeout: timeout, bulk: max(maxBulk, 4*int64(queue)), opts: o}
}

// Channel implements broker.Backend.
func (b *backend) Channel(kind broker.Kind, name string) string {
	return b.prefix + ":" + string(kind) + ":" + name
}

// Dial implements broker.Backend.
func (b *backend) Dial(ctx context.Context, r broker.Receiver) (broker.Conn, error) {
	c := &conn{backend: b}
	if err := c.open(ctx, func(m rueidis.PubSubMessage) { r.Message([]byte(m.Message)) }); err != nil {
		return nil, err
	}
	return c, nil
}

// open connects and calls message for every message of a subscribed channel.
func (c *conn) open(ctx context.Context, message func(rueidis.PubSubMessage)) error {
	stop := context.AfterFunc(ctx, c.cut)
	defer stop()
	client, err := c.backend.connect(ctx, c)
	if err != nil {
		c.cut()
		return err
	}
	c.client = client
	c.redis, _ = client.Dedicate()
	c.lost = c.redis.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: message})
	return nil
}

// connect connects to the primary if it is known, and otherwise to the next configured address.
func (b *backend) connect(ctx context.Context, c *conn) (rueidis.Client, error) {
	first := b.dials % len(b.opts.InitAddress)
	addresses := slices.Concat(b.opts.InitAddress[first:], b.opts.InitAddress[:first])
	b.dials++
	address := addresses[0]
	switch {
	case b.opts.Sentinel.MasterSet != "":
		var err error
		if address, err = b.askSentinels(ctx, c, addresses); err != nil {
			return nil, err
		}
	case b.primary != "":
		if client, err := b.client(ctx, c, b.opts, b.primary); err == nil {
			return client, nil
		}
		b.primary = ""
	}
	return b.client(ctx, c, b.opts, address)
}

// client connects to an address. Its connections are closed with c.
func (b *backend) client(
	ctx context.Context, c *conn, opts rueidis.ClientOption, address string,
) (rueidis.Client, error) {
	opts.InitAddress = []string{address}
	opts.Sentinel = rueidis.SentinelOption{}
	opts.DialCtxFn = func(_ context.Context, address string, d *net.Dialer, secure *tls.Config) (net.Conn, error) {
		return c.dial(ctx, &b.opts, address, d, secure) // the client does not pass a context that ends
	}
	client, err := rueidis.NewClient(opts)
	if err != nil && client != nil {
		client.Close()
	}
	if err != nil {
		return nil, err
	}
	return client, nil
}

// conn is a connection that is used until it is lost.
type conn struct {
	backend *backend
	client  rueidis.Client
	redis   rueidis.DedicatedClient
	lost    <-chan error // closed when the connection delivers no more messages
	strict  bool         // the end of one of the network connections ends all of them
	cmds    []rueidis.Completed

	mu     sync.Mutex
	raw    []net.Conn
	dialed string // the address of the last of them
	done   bool   // no further connections may be dialed
	failed error  // how the server broke the protocol
}

// fail ends the connection, because the server broke the protocol.
func (c *conn) fail(err error) {
	c.mu.Lock()
	c.failed = cmp.Or(c.failed, err)
	c.mu.Unlock()
	c.cut()
}

// Send implements broker.Conn.
func (c *conn) Send(ctx context.Context, batch *broker.Batch) error {
	return c.cause(c.send(ctx, batch))
}

// cause returns how the server broke the protocol, if it did, instead of the client's error.
func (c *conn) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.failed, err)
}

func (c *conn) send(ctx context.Context, batch *broker.Batch) error {
	build := c.redis.B
	cmds := c.cmds[:0]
	if len(batch.Subscribe) > 0 {
		cmds = append(cmds, build().Subscribe().Channel(batch.Subscribe...).Build())
	}
	if len(batch.Unsubscribe) > 0 {
		cmds = append(cmds, build().Unsubscribe().Channel(batch.Unsubscribe...).Build())
	}
	for _, m := range batch.Messages {
		cmds = append(cmds, build().Publish().Channel(m.Channel).Message(rueidis.BinaryString(m.Data)).Build())
	}
	// HELLO is answered, which is sufficient for an empty batch, and fails at a server without RESP3.
	// Its answer contains the role, and it requires no permission that connecting does not require.
	check := batch.Check || len(cmds) == 0
	if check {
		cmds = append(cmds, build().Arbitrary("HELLO").Build())
	}
	var err error
	answers := c.redis.DoMulti(ctx, cmds...)
	for _, r := range answers {
		err = cmp.Or(err, r.Error())
	}
	if check && err == nil {
		err = checkRole(answers[len(answers)-1])
	}
	if errors.Is(err, errReplica) && c.backend.opts.Sentinel.MasterSet == "" {
		c.backend.primary = primaryOf(ctx, c.redis)
	}
	if err != nil {
		c.cmds = nil // the client may still be writing them, although it has returned an error
		return err
	}
	clear(cmds)
	c.cmds = cmds
	return nil
}

// MaxMessage implements broker.Conn.
func (c *conn) MaxMessage() int { return 0 } // Redis accepts 512 MB, which is more than the queue

// Lost implements broker.Conn.
func (c *conn) Lost() <-chan error { return c.lost }

// Close implements broker.Conn.
func (c *conn) Close() {
	c.cut()
	c.redis.Close()
	c.client.Close()
	for range c.lost { // wait until it is closed
	}
}

func (c *conn) dial(
	ctx context.Context, o *rueidis.ClientOption, address string, d *net.Dialer, secure *tls.Config,
) (raw net.Conn, err error) {
	switch {
	case o.DialCtxFn != nil:
		raw, err = o.DialCtxFn(ctx, address, d, secure)
	case o.DialFn != nil:
		raw, err = o.DialFn(address, d, secure)
	case secure != nil:
		raw, err = (&tls.Dialer{NetDialer: d, Config: secure}).DialContext(ctx, "tcp", address)
	default:
		raw, err = d.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	c.raw = append(c.raw, raw)
	c.dialed = address
	checked := &checked{Conn: raw, frames: frames{bulk: c.backend.bulk}, fail: c.fail}
	if c.strict {
		checked.ended = c.cut
	}
	return checked, nil
}

// cut closes the network connections, so that no call of the client blocks any longer.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	for _, raw := range c.raw {
		_ = raw.Close()
	}
}
