package websocket_test

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/websocket"
)

// inBubble runs f in virtual time, with a connection over a pipe.
func inBubble(t *testing.T, cfg websocket.Config, f func(t *testing.T, p *wsPeer, session *wsSession)) {
	synctest.Test(t, func(t *testing.T) {
		s := newWSServer(t, cfg)
		l := transporttest.NewPipeListener()
		hs := &http.Server{Handler: s}
		served := make(chan struct{})
		go func() {
			hs.Serve(l)
			close(served)
		}()
		client, server := net.Pipe()
		l.Conns <- server
		p := handshake(t, client, "/")
		f(t, p, <-s.opened)
		client.Close()
		s.ws.Wait()
		hs.Close()
		<-served
	})
}

// collect reads everything, so that the pipe accepts what the server writes.
func (p *wsPeer) collect() (frames <-chan wsMessage) {
	ch := make(chan wsMessage, 10000)
	go func() {
		defer close(ch)
		for {
			first, b, err := p.read()
			if err != nil {
				return
			}
			ch <- wsMessage{serializer.Op(first & 15), string(b)}
		}
	}()
	return ch
}

func TestWebSocketIdle(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		p.wantClose(1002)
		transporttest.WantElapsed(t, start, 60*time.Second)
		p.send(fin|opClose, closePayload(1002, ""))
		p.wantEnd()
		if err := session.end(t); err != transport.ErrIdle {
			t.Errorf("Closed(%v)", err)
		}
		transporttest.WantElapsed(t, start, 60*time.Second)
	})
}

// TestWebSocketIdleDescriptor checks the idle timeout in real time, where the server has a
// descriptor.
func TestWebSocketIdleDescriptor(t *testing.T) {
	t.Parallel()
	s := startWS(t, websocket.Config{IdleTimeout: time.Second}, wsPaths[0])
	p, session := s.connect()
	var last time.Time
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		last = time.Now()
		p.send(fin|opPing, "")
		p.want(fin|opPong, "")
	}
	p.wantClose(1002)
	if d := time.Since(last); d < time.Second {
		t.Errorf("closed %v after the last ping", d)
	}
	p.send(fin|opClose, "")
	p.wantEnd()
	if err := session.end(t); err != transport.ErrIdle {
		t.Errorf("Closed(%v)", err)
	}
}

// TestWebSocketNeverIdle checks the largest IdleTimeout, on a connection that nobody reads.
func TestWebSocketNeverIdle(t *testing.T) {
	t.Parallel()
	cfg := websocket.Config{IdleTimeout: math.MaxInt64, CloseTimeout: math.MaxInt64}
	p, session := startWS(t, cfg, wsPaths[0]).connect()
	if websocket.HasPoller {
		eventually(t, "the end of reading", func() bool { return websocket.IsIdle(session.Conn) })
	}
	p.sendText("x")
	if m := session.next(t); m.data != "x" {
		t.Errorf("received %q", m.data)
	}
	p.finish(session)
}

// TestWebSocketNotIdle checks that anything that the client sends, even a byte, keeps the
// connection open. Frames to the client do not.
func TestWebSocketNotIdle(t *testing.T) {
	inBubble(t, websocket.Config{IdleTimeout: 90 * time.Second}, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		frames := p.collect()
		parts := [][]byte{maskedFrame(fin|opText, "x"), maskedFrame(fin|opPing, "x"), maskedFrame(fin|opPong, ""),
			maskedFrame(opText, ""), maskedFrame(fin|opCont, "")}
		for i := range 100 {
			time.Sleep(89 * time.Second)
			part := parts[i%len(parts)]
			p.write(part[:1])
			time.Sleep(3 * time.Second) // the library gives a control frame 5 s
			p.write(part[1:])
			session.text(t, "broadcast")
		}
		last := time.Now()
		for range 10 {
			time.Sleep(8 * time.Second)
			session.text(t, "broadcast")
		}
		var m wsMessage
		for m = range frames {
			if m.op == opClose {
				break
			}
		}
		if m.data != closePayload(1002, "") {
			t.Errorf("close frame %q", m.data)
		}
		transporttest.WantElapsed(t, last, 90*time.Second)
		p.send(fin|opClose, closePayload(1002, ""))
		if err := session.end(t); err != transport.ErrIdle {
			t.Errorf("Closed(%v) after %v", err, time.Since(start))
		}
	})
}

// TestWebSocketBusySession checks that a client that waits for its session does not count as idle.
func TestWebSocketBusySession(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		session.receive = func(serializer.Op, []byte) error {
			time.Sleep(10 * time.Minute)
			return nil
		}
		frames := p.collect()
		p.sendText("x")
		start := time.Now()
		if m := <-frames; m.op != opClose {
			t.Errorf("got %v", m)
		}
		if d := time.Since(start); d < 10*time.Minute || d > 12*time.Minute {
			t.Errorf("closed after %v", d)
		}
		p.send(fin|opClose, closePayload(1002, ""))
		session.end(t)
	})
}

// TestWebSocketCongestedNotIdle checks that a client whose messages are not read, because it does
// not read the answers, does not count as idle. It does when it has read them. If it never reads
// them, it ends as a slow client.
func TestWebSocketCongestedNotIdle(t *testing.T) {
	cfg := websocket.Config{MaxQueue: 1000, IdleTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	const messages = 50
	congest := func(t *testing.T, p *wsPeer, session *wsSession) {
		session.receive = func(_ serializer.Op, data []byte) error {
			return session.Send(textFrame(string(data)), transport.Delivery{Answer: true})
		}
		go func() {
			for range messages {
				if _, err := p.Write(maskedFrame(fin|opText, strings.Repeat("x", 200))); err != nil {
					return // the server ended the connection
				}
			}
		}()
		time.Sleep(20 * time.Second)
		if !session.Congested(nil) {
			t.Error("not congested")
		}
	}
	t.Run("reads", func(t *testing.T) {
		inBubble(t, cfg, func(t *testing.T, p *wsPeer, session *wsSession) {
			congest(t, p, session)
			start := time.Now()
			for range messages {
				p.want(fin|opText, strings.Repeat("x", 200))
			}
			p.wantClose(1002)
			transporttest.WantElapsed(t, start, cfg.IdleTimeout)
			p.send(fin|opClose, "")
			if err := session.end(t); err != transport.ErrIdle {
				t.Errorf("Closed(%v)", err)
			}
		})
	})
	t.Run("never reads", func(t *testing.T) {
		inBubble(t, cfg, func(t *testing.T, p *wsPeer, session *wsSession) {
			start := time.Now()
			congest(t, p, session)
			if err := session.end(t); !errors.Is(err, transport.ErrFull) {
				t.Errorf("Closed(%v)", err)
			}
			transporttest.WantElapsed(t, start, cfg.WriteTimeout)
			if st := session.ws.Stats(); st.Slow != 1 || st.Idle != 0 {
				t.Errorf("%+v", st)
			}
		})
	})
}

// TestWebSocketSlowControlFrame checks that a control frame that does not arrive in time ends the
// connection.
func TestWebSocketSlowControlFrame(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		p.write(maskedFrame(fin|opPing, "0123456789")[:10])
		if err := session.end(t); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Closed(%v)", err)
		}
		transporttest.WantElapsed(t, start, 5*time.Second)
		p.wantEnd()
	})
}

func TestWebSocketCloseUnanswered(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		session.Close(1012, "")
		p.wantClose(1012)
		p.sendText("no close frame")
		p.wantEnd()
		transporttest.WantElapsed(t, start, 500*time.Millisecond)
		session.wantCode(t, 1012)
	})
}

func TestWebSocketShortCloseTimeoutBoundsDrain(t *testing.T) {
	cfg := websocket.Config{CloseTimeout: 100 * time.Millisecond}
	inBubble(t, cfg, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		session.Close(1001, "")
		p.wantClose(1001)
		p.wantEnd()
		transporttest.WantElapsed(t, start, 100*time.Millisecond)
		session.wantCode(t, 1001)
	})
}

// stuckConn is a net.Conn whose Close waits, as that of TLS does for a client that reads nothing.
type stuckConn struct {
	net.Conn
	release chan struct{}
}

func (c *stuckConn) Close() error {
	<-c.release
	return c.Conn.Close()
}

// TestWebSocketCloseWaits checks that closing one network connection delays no other connection.
func TestWebSocketCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWSServer(t, websocket.Config{})
		l := transporttest.NewPipeListener()
		hs := &http.Server{Handler: s}
		served := make(chan struct{})
		go func() {
			hs.Serve(l)
			close(served)
		}()
		release := make(chan struct{})
		var peers []*wsPeer
		var sessions []*wsSession
		for range 2 {
			client, server := net.Pipe()
			l.Conns <- &stuckConn{server, release}
			peers = append(peers, handshake(t, client, "/"))
			sessions = append(sessions, <-s.opened)
		}
		start := time.Now()
		sessions[0].Close(1012, "")
		peers[0].wantClose(1012)
		peers[1].wantClose(1002)
		transporttest.WantElapsed(t, start, 60*time.Second)
		close(release)
		for i, p := range peers {
			p.wantEnd()
			_ = sessions[i].end(t)
		}
		s.ws.Wait()
		hs.Close()
		<-served
	})
}

// TestWebSocketCloseUnread checks that CloseTimeout ends the connection of a client that does not
// read what is queued before the close frame.
func TestWebSocketCloseUnread(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		for range 10 {
			session.text(t, strings.Repeat("x", 50_000))
		}
		session.Close(1012, "")
		err := session.end(t)
		transporttest.WantElapsed(t, start, 5*time.Second)
		if ce, ok := errors.AsType[*transport.CloseError](err); !ok || ce.Code != 1012 {
			t.Errorf("Closed(%v)", err)
		}
	})
}

// TestWebSocketCloseSlowly checks that CloseTimeout bounds the writing of everything that was
// queued before Close, also if the client reads a little now and then.
func TestWebSocketCloseSlowly(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		for range 10 {
			session.text(t, strings.Repeat("x", 50_000))
		}
		session.Close(1012, "")
		b := make([]byte, 1000)
		for {
			time.Sleep(time.Second)
			if _, err := io.ReadFull(p.br, b); err != nil {
				break
			}
		}
		session.wantCode(t, 1012)
		if d := time.Since(start); d < 5*time.Second || d > 7*time.Second { // the client reads once a second
			t.Errorf("after %v", d)
		}
	})
}

// TestWebSocketSlowOnce checks that a connection that ends because its queue is full is counted
// once, even if its client does not read the rest either.
func TestWebSocketSlowOnce(t *testing.T) {
	cfg := websocket.Config{MaxQueue: 1000, WriteTimeout: 2 * time.Second}
	inBubble(t, cfg, func(t *testing.T, _ *wsPeer, session *wsSession) {
		start := time.Now()
		for session.Send(textFrame(strings.Repeat("x", 500)), transport.Delivery{}) == nil {
			synctest.Wait() // a writer has taken the first frame
		}
		if err := session.end(t); err != transport.ErrFull {
			t.Errorf("Closed(%v)", err)
		}
		transporttest.WantElapsed(t, start, 2*time.Second)
		if st := session.ws.Stats(); st.Slow != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// TestWebSocketWriteTimeout checks that a client that reads nothing is disconnected, and that a
// client that reads a little at a time is not.
func TestWebSocketWriteTimeout(t *testing.T) {
	inBubble(t, websocket.Config{IdleTimeout: time.Hour}, func(t *testing.T, p *wsPeer, session *wsSession) {
		const n = 300_000
		session.text(t, strings.Repeat("x", n))
		b := make([]byte, chunk)
		for left := n + 10; left > 0; {
			time.Sleep(29 * time.Second)
			got, err := io.ReadFull(p.br, b[:min(left, chunk)])
			if err != nil {
				t.Fatal(err)
			}
			left -= got
		}
		time.Sleep(time.Minute)
		session.text(t, "still there")
		p.want(fin|opText, "still there")

		session.text(t, strings.Repeat("x", n))
		start := time.Now()
		if err := session.end(t); !errors.Is(err, transport.ErrFull) {
			t.Errorf("Closed(%v)", err)
		}
		transporttest.WantElapsed(t, start, 30*time.Second)
	})
}

// chunk is how much a client without a descriptor must read at a time to count as alive.
const chunk = 16 << 10

// TestWebSocketClientClosesUnread checks that the server, after a client's close frame, writes only
// what was queued and then ends the connection.
func TestWebSocketClientClosesUnread(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		start := time.Now()
		session.text(t, "one")
		p.send(fin|opClose, closePayload(1001, ""))
		session.wantCode(t, 1001)
		transporttest.WantElapsed(t, start, 5*time.Second)
	})
}
