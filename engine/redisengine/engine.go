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
	// buffer is for reading and for writing, each, of a connection. The client's own default is 512 KiB.
	buffer = 64 << 10

	// ring is the logarithm of how many calls may be in a connection's pipeline. There is one at a time, and the client's own pings.
	ring = 3

	// keepAlive is how often the client asks on its own whether a connection lives. It has one that it does not use, for itself.
	keepAlive = 30 * time.Second
)

// engine is Redis as a relay sees it. Its methods are called by the goroutine of the relay's Run, except for Channel.
type engine struct {
	prefix  string
	timeout time.Duration
	bulk    int64 // the longest string that is taken
	opts    rueidis.ClientOption
	dials   int
	follow  string // the primary that a replica named; "" if none did, or it cannot be reached
}

func newEngine(prefix string, timeout time.Duration, queue int, o rueidis.ClientOption) *engine {
	o.ForceSingleClient = true
	o.ReplicaOnly, o.SendToReplicas, o.Standalone = false, nil, rueidis.StandaloneOption{}
	o.DisableCache = true
	o.DisableRetry = true // nothing is sent twice
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
		o.ClientSetInfo = rueidis.DisableClientSetInfo // it takes one more permission, and servers before 7.2 do not know it
	}
	return &engine{prefix: prefix, timeout: timeout, bulk: max(maxBulk, 4*int64(queue)), opts: o}
}

// Channel is part of broker.Engine.
func (e *engine) Channel(kind broker.Kind, name string) string {
	return e.prefix + ":" + string(kind) + ":" + name
}

// Dial is part of broker.Engine.
func (e *engine) Dial(ctx context.Context, in broker.In) (broker.Conn, error) {
	c := &conn{engine: e}
	stop := context.AfterFunc(ctx, c.cut)
	defer stop()
	client, err := e.connect(ctx, c)
	if err != nil {
		c.cut()
		return nil, err
	}
	c.client = client
	c.redis, _ = client.Dedicate()
	c.lost = c.redis.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { in.Data([]byte(m.Message)) },
	})
	return c, nil
}

// connect connects to the primary if it is known, and otherwise to the next configured address.
func (e *engine) connect(ctx context.Context, c *conn) (rueidis.Client, error) {
	first := e.dials % len(e.opts.InitAddress)
	addresses := slices.Concat(e.opts.InitAddress[first:], e.opts.InitAddress[:first])
	e.dials++
	address := addresses[0]
	switch {
	case e.opts.Sentinel.MasterSet != "":
		var err error
		if address, err = e.askSentinels(ctx, c, addresses); err != nil {
			return nil, err
		}
	case e.follow != "":
		if client, err := e.client(ctx, c, e.opts, e.follow); err == nil {
			return client, nil
		}
		e.follow = ""
	}
	return e.client(ctx, c, e.opts, address)
}

// client connects to an address. The connections end with c.
func (e *engine) client(ctx context.Context, c *conn, opts rueidis.ClientOption, address string) (rueidis.Client, error) {
	opts.InitAddress = []string{address}
	opts.Sentinel = rueidis.SentinelOption{}
	opts.DialCtxFn = func(_ context.Context, address string, d *net.Dialer, secure *tls.Config) (net.Conn, error) {
		return c.dial(ctx, &e.opts, address, d, secure) // the client's context never ends
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

// conn is a connection, used until it is lost.
type conn struct {
	engine *engine
	client rueidis.Client
	redis  rueidis.DedicatedClient
	lost   <-chan error // closed when no message comes any more
	cmds   []rueidis.Completed

	mu     sync.Mutex
	raw    []net.Conn
	done   bool  // no more are to be dialed
	failed error // what the server broke
}

// fail notes that the server broke the protocol.
func (c *conn) fail(err error) {
	c.mu.Lock()
	c.failed = cmp.Or(c.failed, err)
	c.mu.Unlock()
	c.cut()
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
	build := c.redis.B
	cmds := c.cmds[:0]
	if len(b.Subscribe) > 0 {
		cmds = append(cmds, build().Subscribe().Channel(b.Subscribe...).Build())
	}
	if len(b.Unsubscribe) > 0 {
		cmds = append(cmds, build().Unsubscribe().Channel(b.Unsubscribe...).Build())
	}
	for _, m := range b.Messages {
		cmds = append(cmds, build().Publish().Channel(m.Channel).Message(rueidis.BinaryString(m.Data)).Build())
	}
	// HELLO gets an answer, which is all that an empty batch wants, and so finds out a server without RESP3. It also tells the
	// role, and takes no permission that connecting does not take.
	check := b.Check || len(cmds) == 0
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
	if errors.Is(err, errReplica) && c.engine.opts.Sentinel.MasterSet == "" {
		c.engine.follow = primary(ctx, c.redis)
	}
	clear(cmds)
	c.cmds = cmds
	return err
}

// MaxMessage is part of broker.Conn.
func (c *conn) MaxMessage() int { return 0 } // 512 MB: the queue is smaller

// Lost is part of broker.Conn.
func (c *conn) Lost() <-chan error { return c.lost }

// Close is part of broker.Conn.
func (c *conn) Close() {
	c.cut()
	c.redis.Close()
	c.client.Close()
	for range c.lost { // until it is closed
	}
}

func (c *conn) dial(ctx context.Context, o *rueidis.ClientOption, address string, d *net.Dialer, secure *tls.Config) (raw net.Conn, err error) {
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
	return &checked{Conn: raw, frames: frames{bulk: c.engine.bulk}, fail: c.fail}, nil
}

// cut ends the connections under the client, so that nothing that it does waits any more.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	for _, raw := range c.raw {
		_ = raw.Close()
	}
}
