package transport_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// clientPair is a server for both transports, whose sessions echo. Text that begins with ["close"
// ends the session.
type clientPair struct {
	ws *websocket.Server
	lp *longpoll.Server

	mu     sync.Mutex
	refuse error
	uris   []string
	ends   []error // the reasons of sessions, in order
}

func newClientPair(lp longpoll.Config) *clientPair {
	return &clientPair{ws: websocket.NewServer(websocket.Config{}), lp: longpoll.NewServer(lp)}
}

func (p *clientPair) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.uris = append(p.uris, r.RequestURI)
	refuse := p.refuse
	p.mu.Unlock()
	open := func(c transport.Conn) transport.Session { return &clientPairSession{p, c} }
	if strings.HasSuffix(r.URL.Path, "/longpoll") {
		p.lp.Serve(w, r, func() (func(transport.Conn) transport.Session, error) { return open, refuse })
		return
	}
	if refuse != nil {
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	p.ws.Serve(w, r, "", open)
}

func (p *clientPair) ended() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]error(nil), p.ends...)
}

type clientPairSession struct {
	pair *clientPair
	conn transport.Conn
}

func (s *clientPairSession) Receive(op serializer.Op, data []byte) error {
	if strings.HasPrefix(string(data), `["close"`) {
		return &transport.CloseError{Code: transport.CodeRestart, Reason: "bye"}
	}
	return s.conn.Send(&serializer.Frame{Op: op, Data: data}, transport.Delivery{})
}

func (s *clientPairSession) Closed(err error) {
	s.pair.mu.Lock()
	defer s.pair.mu.Unlock()
	s.pair.ends = append(s.pair.ends, err)
}

// clientPairTest runs f in a bubble for each transport, with a connection to a clientPair.
func clientPairTest(t *testing.T, f func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn)) {
	clientPairBound(t, 0, f)
}

// clientPairBound is clientPairTest with a bound for messages at both ends.
func clientPairBound(t *testing.T, max int64,
	f func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn)) {
	for name, dial := range map[string]transporttest.Dialer{"ws": websocket.Dial, "longpoll": longpoll.Dial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newClientPair(longpoll.Config{MaxMessage: max, MaxBody: max})
				p.ws = websocket.NewServer(websocket.Config{MaxMessage: max})
				n := transporttest.NewNet(t, p)
				c := transporttest.Dial(t, dial, transport.ClientConfig{HTTPClient: n.Client, MaxMessage: max})
				f(t, n, p, c)
				c.Close(1000, "")
				time.Sleep(time.Minute) // a long-poll session ends when nobody polls
				p.ws.Wait()
				p.lp.Wait()
			})
		})
	}
}

func TestClientPairEcho(t *testing.T) {
	t.Parallel()
	clientPairTest(t, func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn) {
		var frames []*serializer.Frame
		for i := range 300 {
			text := transporttest.Text(fmt.Sprintf(`["%d",%q]`, i, strings.Repeat("ü\n", i)))
			binary := make([]byte, 1+i*i/16)
			for j := range binary {
				binary[j] = byte(rand.Uint32())
			}
			frames = append(frames, text, &serializer.Frame{Op: serializer.OpBinary, Data: binary})
		}
		go func() {
			for rest := frames; len(rest) > 0; {
				n := min(rand.IntN(5), len(rest))
				if err := c.Write(rest[:n]...); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
		}()
		for _, f := range frames {
			transporttest.Wants(t, c, f.Op, string(f.Data))
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, uri := range p.uris {
			if strings.Contains(uri, "token") {
				t.Errorf("the session's token is in a URL: %s", uri)
			}
		}
	})
}

// TestClientPairUnbounded checks that the largest possible bound, which means none, does not
// overflow.
func TestClientPairUnbounded(t *testing.T) {
	t.Parallel()
	clientPairBound(t, math.MaxInt64, func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn) {
		binary := &serializer.Frame{Op: serializer.OpBinary, Data: make([]byte, 2<<20)}
		for _, f := range []*serializer.Frame{transporttest.Text("[1]"), binary, transporttest.Text(`{"alone":1}`)} {
			if err := c.Write(f); err != nil {
				t.Fatal(err)
			}
			transporttest.Wants(t, c, f.Op, string(f.Data))
		}
	})
}

// TestClientPairObjects checks that objects of version 1.0.0 arrive, although they cannot be lines
// of a batch.
func TestClientPairObjects(t *testing.T) {
	t.Parallel()
	clientPairTest(t, func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn) {
		for i := range 10 {
			if err := c.Write(transporttest.Text(fmt.Sprintf(`{"a":%d}`, i)), transporttest.Text("[\n]")); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 10 {
			transporttest.Wants(t, c, serializer.OpText, fmt.Sprintf(`{"a":%d}`, i))
			transporttest.Wants(t, c, serializer.OpText, "[\n]")
		}
	})
}

// TestClientPairServerCloses checks how the client is notified that the server closed. Long poll
// has neither a close handshake nor codes.
func TestClientPairServerCloses(t *testing.T) {
	t.Parallel()
	clientPairTest(t, func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn) {
		c.Write(transporttest.Text(`["last"]`))
		transporttest.Wants(t, c, serializer.OpText, `["last"]`)
		c.Write(transporttest.Text(`["close"]`))
		transporttest.Within(t, time.Second, func() {
			err := transporttest.WantsEnd(t, c)
			var closed *transport.CloseError
			if !errors.As(err, &closed) {
				t.Fatalf("Read: %v", err)
			}
			if transporttest.IsWebSocket(c) {
				if closed.Code != transport.CodeRestart || closed.Reason != "bye" {
					t.Errorf("Read: %v", err)
				}
			} else if closed.Code != transport.CodeSessionGone && closed.Code != transport.CodeInternal {
				t.Errorf("Read: %v", err)
			}
		})
	})
}

func TestClientPairClientCloses(t *testing.T) {
	t.Parallel()
	clientPairTest(t, func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn) {
		if err := c.Close(1000, "enough"); err != nil {
			t.Errorf("Close: %v", err)
		}
		if transporttest.IsWebSocket(c) {
			synctest.Wait()
		} else {
			time.Sleep(30 * time.Second)
		}
		ends := p.ended()
		if len(ends) != 1 {
			t.Fatalf("%d sessions ended: %v", len(ends), ends)
		}
		var closed *transport.CloseError
		if transporttest.IsWebSocket(c) &&
			(!errors.As(ends[0], &closed) || closed.Code != 1000 || closed.Reason != "enough") {
			t.Errorf("the session ended with %v", ends[0])
		}
	})
}

// TestClientPairIdle checks that a WebSocket without heartbeats ends by the idle timeout. Long poll
// needs none.
func TestClientPairIdle(t *testing.T) {
	t.Parallel()
	clientPairTest(t, func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn) {
		if transporttest.IsWebSocket(c) {
			transporttest.Within(t, 61*time.Second, func() { transporttest.WantsCode(t, c, transport.CodeProtocol) })
			return
		}
		time.Sleep(6 * time.Hour)
		c.Write(transporttest.Text("[]"))
		transporttest.Wants(t, c, serializer.OpText, "[]")
	})
}

// TestClientPairCut breaks all connections at once. On both transports the session is lost, and
// Read returns an error.
func TestClientPairCut(t *testing.T) {
	t.Parallel()
	clientPairTest(t, func(t *testing.T, n *transporttest.Net, p *clientPair, c transport.ClientConn) {
		c.Write(transporttest.Text(`["a"]`))
		transporttest.Wants(t, c, serializer.OpText, `["a"]`)
		synctest.Wait()
		n.Cut()
		transporttest.Within(t, time.Second, func() {
			if err := transporttest.WantsEnd(t, c); errors.Is(err, transport.ErrClosed) {
				t.Errorf("Read: %v", err)
			}
		})
	})
}

func TestClientPairRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		dial   transporttest.Dialer
		err    error
		status int
	}{
		{"ws", websocket.Dial, errors.New("no"), 403},
		{"longpoll", longpoll.Dial, errors.New("no"), 403},
		{"longpoll, later", longpoll.Dial, longpoll.StatusError(503), 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newClientPair(longpoll.Config{})
			p.refuse = tt.err
			n := transporttest.NewNet(t, p)
			_, err := tt.dial(t.Context(), &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client})
			var refused *transport.HandshakeError
			if !errors.As(err, &refused) || refused.StatusCode != tt.status {
				t.Errorf("dial: %v", err)
			}
		})
	}
}
