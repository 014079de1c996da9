package websocket_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// connectIdle returns a connection that the poller watches, and nobody reads.
func connectIdle(t *testing.T, cfg websocket.Config) (*wsPeer, *wsSession) {
	t.Helper()
	p, session := startWS(t, cfg, wsPaths[0]).connect()
	awaitIdle(t, session)
	return p, session
}

func awaitIdle(t *testing.T, s *wsSession) {
	t.Helper()
	eventually(t, "the end of reading", func() bool { return websocket.IsIdle(s.Conn) })
}

// TestIdleConnection checks that whatever happens to a connection that nobody reads is noticed.
func TestIdleConnection(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(*testing.T, *wsPeer, *wsSession){
		"message": func(t *testing.T, p *wsPeer, s *wsSession) {
			for i := range 3 {
				p.sendText(fmt.Sprint(i))
				if m := s.next(t); m.data != fmt.Sprint(i) {
					t.Fatalf("received %q", m.data)
				}
				awaitIdle(t, s)
			}
			p.finish(s)
		},
		"half a message": func(t *testing.T, p *wsPeer, s *wsSession) {
			all := maskedFrame(fin|opText, strings.Repeat("x", 50_000))
			p.write(all[:7])
			eventually(t, "reading", func() bool { return !websocket.IsIdle(s.Conn) })
			p.write(all[7:30_000])
			p.write(all[30_000:])
			if m := s.next(t); len(m.data) != 50_000 {
				t.Fatalf("received %d bytes", len(m.data))
			}
			awaitIdle(t, s)
			p.finish(s)
		},
		"ping": func(_ *testing.T, p *wsPeer, s *wsSession) {
			p.send(fin|opPing, "x")
			p.want(fin|opPong, "x")
			p.finish(s)
		},
		"broadcast": func(t *testing.T, p *wsPeer, s *wsSession) {
			s.text(t, "hello")
			p.want(fin|opText, "hello")
			if !websocket.IsIdle(s.Conn) {
				t.Error("to write has woken the reader")
			}
			p.finish(s)
		},
		"session closes": func(t *testing.T, p *wsPeer, s *wsSession) {
			s.Close(4000, "")
			p.wantClose(4000)
			p.send(fin|opClose, closePayload(4000, ""))
			p.wantEnd()
			s.wantCode(t, 4000)
		},
		"client closes": func(_ *testing.T, p *wsPeer, s *wsSession) { p.finish(s) },
		"client half-closes": func(t *testing.T, p *wsPeer, s *wsSession) {
			if err := p.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			_ = s.end(t)
		},
		"reset": func(t *testing.T, p *wsPeer, s *wsSession) {
			if err := p.Conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			p.Close()
			_ = s.end(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, session := connectIdle(t, websocket.Config{MaxMessage: 100_000})
			f(t, p, session)
		})
	}
}

// TestIdleConnectionTimesOut checks the ends that only the timer brings about.
func TestIdleConnectionTimesOut(t *testing.T) {
	t.Parallel()
	cfg := websocket.Config{IdleTimeout: 2 * time.Second, CloseTimeout: 50 * time.Millisecond}
	p, session := connectIdle(t, cfg)
	p.wantClose(1002)
	if err := session.end(t); err != transport.ErrIdle { // the client answers nothing
		t.Errorf("closed with %v", err)
	}
}

// goroutines returns how many goroutines run methods of a type of this package.
func goroutines(of string) int {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	n := 0
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, of) {
			n++
		}
	}
	return n
}

// TestIdleConnectionHasNoGoroutine checks that all goroutines but the poller's end, and that this
// one ends with the last connection.
func TestIdleConnectionHasNoGoroutine(t *testing.T) {
	s := startWS(t, websocket.Config{}, wsPaths[0])
	const count = 50
	before := goroutines("websocket.(*serverConn)")
	var sessions []*wsSession
	var peers []*wsPeer
	for range count {
		p, session := s.connect()
		peers, sessions = append(peers, p), append(sessions, session)
	}
	for _, session := range sessions {
		awaitIdle(t, session)
	}
	eventually(t, "the end of the readers", func() bool {
		return goroutines("websocket.(*serverConn)") == before
	})
	if n := goroutines("websocket.(*poller)"); n != 1 {
		t.Errorf("%d pollers", n)
	}
	for i, p := range peers {
		p.finish(sessions[i])
	}
	s.ws.Wait()
	eventually(t, "the end of the poller", func() bool { return goroutines("websocket.(*poller)") == 0 })
}

// TestWatchingIsRefused checks that connections have goroutines if the system does not watch them.
func TestWatchingIsRefused(t *testing.T) {
	t.Parallel()
	s := startWS(t, websocket.Config{}, wsPaths[0])
	s.ws.BreakPoller()
	p, session := s.connect()
	for i := range 20 {
		p.sendText(fmt.Sprint(i))
		if m := session.next(t); m.data != fmt.Sprint(i) {
			t.Fatalf("received %q", m.data)
		}
	}
	p.finish(session)
}

// TestWatchingAtRandom checks that no message is lost between a reader that ends and the next one:
// clients pause for about as long as a reader takes, and both ends close.
func TestWatchingAtRandom(t *testing.T) {
	t.Parallel()
	s := startWS(t, websocket.Config{CloseTimeout: time.Second}, wsPaths[0])
	echo := func(w *wsSession) {
		w.receive = func(_ serializer.Op, data []byte) error {
			return w.Send(textFrame(string(data)), broadcast)
		}
	}
	s.prepare.Store(&echo)
	var wg sync.WaitGroup
	for i := range 20 {
		p, session := s.connect()
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for n := range 200 {
				time.Sleep(time.Duration(r.IntN(2500)) * time.Microsecond) // so that the reader ends, or not
				text := fmt.Sprint(n)
				parts := maskedFrame(fin|opText, text)
				cut := r.IntN(2 * len(parts))
				if cut < len(parts) { // in two writes
					if _, err := p.Write(parts[:cut]); err != nil {
						t.Error(err)
						return
					}
					parts = parts[cut:]
				}
				if _, err := p.Write(parts); err != nil {
					t.Error(err)
					return
				}
				if _, got, err := p.read(); err != nil || string(got) != text {
					t.Errorf("client %d received %q (%v), want %q", i, got, err, text)
					return
				}
			}
			switch r.IntN(3) {
			case 0:
				session.Close(1001, "")
			case 1:
				_, _ = p.Write(maskedFrame(fin|opClose, closePayload(1001, "")))
			}
			p.Close()
		})
		t.Cleanup(func() { _ = session.end(t) })
	}
	wg.Wait()
}

// TestUrgentData checks that what follows urgent data is received. The kernel returns less than has
// arrived then, which otherwise means that nothing is left.
func TestUrgentData(t *testing.T) {
	t.Parallel()
	s := startWS(t, websocket.Config{}, wsPaths[0])
	gate := make(chan struct{})
	inside := make(chan struct{})
	blocks := func(w *wsSession) {
		w.receive = func(op serializer.Op, data []byte) error {
			if string(data) == "gate" {
				close(inside)
				<-gate
			}
			w.received <- wsMessage{op, string(data)}
			return nil
		}
	}
	s.prepare.Store(&blocks)
	p, session := s.connect()
	p.sendText("gate")
	<-inside
	p.sendText("one")
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = syscall.Sendto(int(fd), []byte{'!'}, syscall.MSG_OOB, nil)
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	p.sendText("two")
	close(gate)
	for _, want := range []string{"gate", "one", "two"} {
		if m := session.next(t); m.data != want {
			t.Fatalf("received %q, want %q", m.data, want)
		}
	}
	p.finish(session)
}
