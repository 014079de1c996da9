package redispubsub

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/internal/relay"
)

const (
	// buffer is for reading and for writing, each, of a connection. The client's own default is 512 KiB.
	buffer = 64 << 10

	// ring is the logarithm of how many calls may be in a connection's pipeline. There is one at a time, and the client's own pings.
	ring = 3

	// keepAlive is how often the client asks on its own whether a connection lives. It has one that it does not use, for itself.
	keepAlive = 30 * time.Second
)

// engine is Redis as a relay sees it. The relay dials again when it has closed the connection before.
type engine struct {
	prefix string
	opts   rueidis.ClientOption
	dials  int
}

func newEngine(prefix string, timeout time.Duration, o rueidis.ClientOption) *engine {
	o.ForceSingleClient = o.Sentinel.MasterSet == ""
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
	return &engine{prefix: prefix, opts: o}
}

// Channel is part of relay.Engine.
func (e *engine) Channel(kind relay.Kind, name string) string {
	return e.prefix + ":" + string(kind) + ":" + name
}

// Dial is part of relay.Engine.
func (e *engine) Dial(ctx context.Context, in relay.In) (relay.Conn, error) {
	c := &conn{}
	opts := e.opts
	opts.DialCtxFn = func(_ context.Context, address string, d *net.Dialer, secure *tls.Config) (net.Conn, error) {
		return c.dial(ctx, &e.opts, address, d, secure) // the client's context never ends
	}
	first := e.dials % len(opts.InitAddress)
	opts.InitAddress = slices.Concat(opts.InitAddress[first:], opts.InitAddress[:first])
	e.dials++

	stop := context.AfterFunc(ctx, c.cut)
	defer stop()
	client, err := rueidis.NewClient(opts)
	if err != nil {
		c.cut()
		if client != nil {
			client.Close()
		}
		return nil, err
	}
	c.client = client
	c.redis, _ = client.Dedicate()
	c.lost = c.redis.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: func(m rueidis.PubSubMessage) { in.Data([]byte(m.Message)) },
	})
	return c, nil
}

// conn is a connection, used until it is lost.
type conn struct {
	client rueidis.Client
	redis  rueidis.DedicatedClient
	lost   <-chan error // closed when no message comes any more
	cmds   []rueidis.Completed

	mu   sync.Mutex
	raw  []net.Conn
	done bool // no more are to be dialed
}

// Send is part of relay.Conn.
func (c *conn) Send(ctx context.Context, b *relay.Batch) error {
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
	if len(b.Messages) == 0 { // also so that a server without RESP3 is found out at once
		cmds = append(cmds, build().Ping().Build())
	}
	var err error
	for _, r := range c.redis.DoMulti(ctx, cmds...) {
		err = cmp.Or(err, r.Error())
	}
	clear(cmds)
	c.cmds = cmds
	return err
}

// MaxMessage is part of relay.Conn.
func (c *conn) MaxMessage() int { return 0 } // 512 MB: the queue is smaller

// Lost is part of relay.Conn.
func (c *conn) Lost() <-chan error { return c.lost }

// Close is part of relay.Conn.
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
	return raw, nil
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
