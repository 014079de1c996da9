package mirror_test

import (
	"context"
	"errors"
	"iter"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/offline"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// rig is a server with a store in memory, and the network between it and its clients.
type rig struct {
	t       testing.TB
	ps      *pubsub.PubSub
	store   *state.Memory
	objects *state.Objects
	handler *socket.Handler
	dial    func(ctx context.Context) (net.Conn, error)

	mu    sync.Mutex
	conns map[*conn]struct{}
	down  bool // the network refuses connections
}

// allowAll lets every client do everything.
func allowAll(context.Context, *channel.Channel, state.Access) error { return nil }

// newRig starts a server in memory. Its topics begin with the kinds of objects.
func newRig(t testing.TB, cfg state.Config) *rig {
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	r := serve(t, cfg, l)
	r.dial = l.dial
	return r
}

// newTCPRig starts a server on a port.
func newTCPRig(t testing.TB, cfg state.Config) *rig {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, cfg, l)
	r.dial = func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
	return r
}

// newPubSub returns a PubSub that records the streams.
func newPubSub() *pubsub.PubSub {
	return pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"stream:*": {}})
}

func serve(t testing.TB, cfg state.Config, l net.Listener) *rig {
	if cfg.Allow == nil {
		cfg.Allow = allowAll
	}
	store := state.NewMemory(state.MemoryConfig{})
	r := &rig{t: t, ps: newPubSub(), store: store, objects: state.New(store), conns: map[*conn]struct{}{}}
	log := zerolog.Nop()
	plain := channel.Define(func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) {
		return nil, nil
	})
	r.handler = socket.NewHandler(socket.Config{
		Channels: channel.Routes{
			"doc:*": r.objects.Documents(cfg), "map:*": r.objects.Maps(cfg), "list:*": r.objects.Lists(cfg),
			"tree:*": r.objects.Trees(cfg), "room:*": plain, "stream:*": r.objects.Streams(cfg),
		},
		PubSub: r.ps,
		Logger: &log,
	})
	server := &http.Server{Handler: r.handler, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.handler.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		_ = server.Close()
		served.Wait()
	})
	return r
}

// client returns a connected client, which ends before the server.
func (r *rig) client() *socket.Client { return r.keptClient(nil) }

// keptClient returns one with a store, unless that is nil.
func (r *rig) keptClient(store offline.Store) *socket.Client {
	log := zerolog.Nop()
	var kept *offline.Config
	if store != nil {
		kept = &offline.Config{Store: store, Identity: "ann"}
	}
	transport := &http.Transport{DialContext: r.connect}
	c := socket.NewClient("ws://bennu.example/socket", &socket.ClientConfig{
		HTTPClient:     &http.Client{Transport: transport},
		ReconnectDelay: func(socket.Retry) time.Duration { return 5 * time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return 5 * time.Millisecond },
		Logger:         &log,
		Offline:        kept,
	})
	c.Connect()
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			r.t.Errorf("close: %v", err)
		}
		transport.CloseIdleConnections()
	})
	return c
}

func (r *rig) connect(ctx context.Context, _, _ string) (net.Conn, error) {
	r.mu.Lock()
	down := r.down
	r.mu.Unlock()
	if down {
		return nil, errors.New("network is down")
	}
	c, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	tracked := &conn{c, r}
	r.conns[tracked] = struct{}{}
	return tracked, nil
}

// cut ends all connections. Messages on the way are lost.
func (r *rig) cut() {
	r.mu.Lock()
	var all []*conn
	for c := range r.conns {
		all = append(all, c)
	}
	r.mu.Unlock()
	for _, c := range all {
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// setDown takes the network down, or up again.
func (r *rig) setDown(down bool) {
	r.mu.Lock()
	r.down = down
	r.mu.Unlock()
	if down {
		r.cut()
	}
}

// put writes items from the server's side.
func (r *rig) put(topic string, ops ...state.Op) {
	r.t.Helper()
	if _, err := r.objects.Apply(context.Background(), topic, ops, state.Tx{}); err != nil {
		r.t.Fatal(err)
	}
}

// conn is a client's connection.
type conn struct {
	net.Conn
	r *rig
}

func (c *conn) Close() error {
	c.r.mu.Lock()
	delete(c.r.conns, c)
	c.r.mu.Unlock()
	return c.Conn.Close()
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipes) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

// reader pulls from a sequence of changes.
type reader[T any] struct {
	t    testing.TB
	next func() (mirror.Change[T], error, bool)
}

func read[T any](t testing.TB, seq iter.Seq2[mirror.Change[T], error]) reader[T] {
	next, stop := iter.Pull2(seq)
	t.Cleanup(stop)
	return reader[T]{t, next}
}

// change returns the next change.
func (r reader[T]) change() mirror.Change[T] {
	r.t.Helper()
	c, err, ok := r.next()
	if err != nil || !ok {
		r.t.Fatalf("no change: %v, %v", err, ok)
	}
	return c
}

// kinds checks the kinds of the next changes.
func (r reader[T]) kinds(want ...mirror.Kind) {
	r.t.Helper()
	for i, k := range want {
		if c := r.change(); c.Kind != k {
			r.t.Fatalf("change %d is %v of %q, want %v", i, c.Kind, c.Key, k)
		}
	}
}

// err returns the error that the sequence has next.
func (r reader[T]) err() error {
	r.t.Helper()
	c, err, ok := r.next()
	if err == nil {
		r.t.Fatalf("%v of %q (%v) instead of an error", c.Kind, c.Key, ok)
	}
	return err
}

// end checks that the sequence has ended.
func (r reader[T]) end() {
	r.t.Helper()
	if c, err, ok := r.next(); ok {
		r.t.Fatalf("%+v, %v instead of the end", c, err)
	}
}
