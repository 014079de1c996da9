// Package transporttest has what the tests of the transports share: a network in memory that can break, and helpers for
// the client's end of a connection.
package transporttest

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// Net is an HTTP server in memory and the client that reaches it, whatever host it asks for. It works under synctest, with
// whose clock its connections agree, and without.
type Net struct {
	*http.Client
	Conns  atomic.Int32 // made so far
	Writes atomic.Int32 // that clients made on them

	refusing atomic.Bool

	mu      sync.Mutex
	live    []*clientNetConn // the clients' ends
	running int              // handlers, of which a Server forgets those that hijack
	idle    chan struct{}    // set when the test is over, closed when none is running
}

// enter says that a handler begins, unless the test is over.
func (n *Net) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.idle != nil {
		return false
	}
	n.running++
	return true
}

func (n *Net) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running--; n.running == 0 && n.idle != nil {
		close(n.idle)
	}
}

func (n *Net) wait() {
	n.mu.Lock()
	n.idle = make(chan struct{})
	if n.running == 0 {
		close(n.idle)
	}
	n.mu.Unlock()
	<-n.idle
}

// NewNet serves h until the test ends.
func NewNet(t testing.TB, h http.Handler) *Net {
	t.Helper()
	n := &Net{}
	l := &clientNetListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.enter() {
			defer n.leave()
			h.ServeHTTP(w, r)
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case l.conns <- there:
		case <-l.closed:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		n.Conns.Add(1)
		c := &clientNetConn{Conn: here, net: n, stalled: make(chan struct{}), closed: make(chan struct{})}
		n.mu.Lock()
		n.live = append(n.live, c)
		n.mu.Unlock()
		return c, nil
	}}
	n.Client = &http.Client{Transport: tr}
	t.Cleanup(func() {
		server.Close()
		l.Close()
		<-served
		n.Cut()
		tr.CloseIdleConnections()
		n.wait()
	})
	return n
}

// Cut breaks all connections, as a network does.
func (n *Net) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.live {
		c.Conn.Close()
	}
}

// Stall lets nothing through any more, in the client's direction to the server.
func (n *Net) Stall() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.live {
		if c.stall.CompareAndSwap(false, true) {
			close(c.stalled)
		}
	}
}

// Refuse makes every write fail.
func (n *Net) Refuse() { n.refusing.Store(true) }

type clientNetConn struct {
	net.Conn
	net     *Net
	stall   atomic.Bool
	stalled chan struct{}
	once    sync.Once
	closed  chan struct{}
}

func (c *clientNetConn) Write(p []byte) (int, error) {
	c.net.Writes.Add(1)
	if c.net.refusing.Load() {
		return 0, syscall.EPIPE
	}
	if c.stall.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *clientNetConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

type clientNetListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *clientNetListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *clientNetListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *clientNetListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

// WebSocketHandler is a handler that hands accepted WebSockets to f and drops them when that has returned.
func WebSocketHandler(f func(c *websocket.Conn, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"phoenix"}})
		if err != nil {
			return
		}
		c.SetReadLimit(64 << 20)
		defer c.CloseNow()
		f(c, r)
	})
}

// Echo sends every frame back.
func Echo(c *websocket.Conn, _ *http.Request) {
	for {
		typ, data, err := c.Read(context.Background())
		if err != nil || c.Write(context.Background(), typ, data) != nil {
			return
		}
	}
}

// dialer is DialWebSocket or DialLongPoll.
type Dialer func(context.Context, transport.ClientConfig) (transport.ClientConn, error)

// Dial dials the server and fails the test if that fails. The connection is closed when the test ends.
func Dial(t testing.TB, dial Dialer, cfg transport.ClientConfig) transport.ClientConn {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = "ws://server/socket"
	}
	c, err := dial(context.Background(), cfg)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { c.Close(1000, "") })
	return c
}

func Text(s string) *serializer.Frame {
	return &serializer.Frame{Op: serializer.OpText, Data: []byte(s)}
}

func Binary(s string) *serializer.Frame {
	return &serializer.Frame{Op: serializer.OpBinary, Data: []byte(s)}
}

// Wants reads a frame and compares it.
func Wants(t testing.TB, c transport.ClientConn, op serializer.Op, data string) {
	t.Helper()
	gotOp, got, err := c.Read()
	if err != nil {
		t.Fatalf("Read: %v, want %q", err, data)
	}
	if gotOp != op || string(got) != data {
		t.Fatalf("Read: %d %.100q, want %d %.100q", gotOp, got, op, data)
	}
}

// WantsEnd reads until the connection has ended and returns why. It must stay so.
func WantsEnd(t testing.TB, c transport.ClientConn) error {
	t.Helper()
	never := time.AfterFunc(10*time.Minute, func() { c.Close(1000, "") })
	defer never.Stop()
	for range 1000 {
		_, _, err := c.Read()
		if err == nil {
			continue
		}
		if _, _, again := c.Read(); again == nil || again.Error() != err.Error() {
			t.Errorf("Read: first %v, then %v", err, again)
		}
		return err
	}
	t.Fatal("Read: no end of messages")
	return nil
}

// WantsCode is WantsEnd with a code.
func WantsCode(t testing.TB, c transport.ClientConn, code int) *transport.CloseError {
	t.Helper()
	err := WantsEnd(t, c)
	var closed *transport.CloseError
	if !errors.As(err, &closed) || closed.Code != code {
		t.Fatalf("Read: %v, want the code %d", err, code)
	}
	return closed
}

// Within fails the test if f takes longer than d. Under synctest that is exact.
func Within(t testing.TB, d time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took > d {
		t.Errorf("took %v, want at most %v", took, d)
	}
}

// AcceptKey is the answer to a handshake's key, by RFC 6455.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func IsWebSocket(c transport.ClientConn) bool { return fmt.Sprintf("%T", c) == "*websocket.wsClient" }
