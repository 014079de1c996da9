package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/internal/safecall"
	"bennu.example/serializer"
	"bennu.example/transport"
	ws "bennu.example/transport/websocket"
)

// dialLibrary dials with the library's client.
func dialLibrary(t testing.TB, s *wsServer, opts *websocket.DialOptions) *websocket.Conn {
	t.Helper()
	if opts == nil {
		opts = &websocket.DialOptions{}
	}
	url := "ws://" + s.addr
	if s.tls != nil {
		url = "wss://" + s.addr
		tr := &http.Transport{TLSClientConfig: s.tls}
		t.Cleanup(tr.CloseIdleConnections)
		opts.HTTPClient = &http.Client{Transport: tr}
	}
	c, _, err := websocket.Dial(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func TestWebSocketEcho(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		echo := func(w *wsSession) {
			w.receive = func(op serializer.Op, data []byte) error {
				return w.Send(&serializer.Frame{Op: op, Data: data}, transport.Delivery{})
			}
		}
		s.prepare.Store(&echo)
		c := dialLibrary(t, s, nil)
		session := <-s.opened
		ctx := context.Background()
		for _, n := range []int{0, 1, 125, 126, 127, 1000, 4095, 4096, 4097, 65535, 65536, 70_000, 1 << 20} {
			for _, typ := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
				sent := strings.Repeat("x", n)
				go c.Write(ctx, typ, []byte(sent)) // otherwise both sides could wait for each other
				got, data, err := c.Read(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if got != typ || string(data) != sent {
					t.Errorf("%d bytes of type %v came back as %d of %v", n, typ, len(data), got)
				}
			}
		}
		if err := c.Close(3000, "bye"); err != nil && websocket.CloseStatus(err) != 1000 {
			t.Error(err)
		}
		err := session.end(t)
		if ce, ok := errors.AsType[*transport.CloseError](err); !ok ||
			*ce != (transport.CloseError{Code: 3000, Reason: "bye"}) {
			t.Errorf("Closed(%v)", err)
		}
	})
}

func TestWebSocketOrder(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{MaxQueue: 10 << 20}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		const n = 3000
		go func() {
			var b []byte
			for i := range n {
				b = append(b, maskedFrame(fin|opText, fmt.Sprint(i))...)
			}
			p.Write(b)
		}()
		for i := range n {
			if m := session.next(t); m.data != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, m.data)
			}
			session.text(t, strings.Repeat("o", i%700)+fmt.Sprint(i))
		}
		for i := range n {
			p.want(fin|opText, strings.Repeat("o", i%700)+fmt.Sprint(i))
		}
		p.finish(session)
	})
}

// TestWebSocketDataIsKept checks that a session may keep the data that it receives.
func TestWebSocketDataIsKept(t *testing.T) {
	t.Parallel()
	s := startWS(t, ws.Config{}, wsPaths[0])
	var kept [][]byte
	keep := func(w *wsSession) {
		w.receive = func(_ serializer.Op, data []byte) error {
			if cap(data) > len(data)+64 {
				t.Errorf("%d bytes in a slice of %d", len(data), cap(data))
			}
			kept = append(kept, data)
			w.received <- wsMessage{}
			return nil
		}
	}
	s.prepare.Store(&keep)
	p, session := s.connect()
	for i := range 100 {
		p.sendText(strings.Repeat(string(rune('a'+i%26)), 1000+i))
		session.next(t)
	}
	for i, b := range kept {
		if string(b) != strings.Repeat(string(rune('a'+i%26)), 1000+i) {
			t.Fatalf("message %d changed", i)
		}
	}
	p.finish(session)
}

func TestWebSocketFragments(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		p.send(opText, "[null,")
		p.send(fin|opPing, "mid")
		p.want(fin|opPong, "mid")
		p.send(opCont, "")
		p.send(opCont, "1")
		p.send(fin|opPong, "unsolicited")
		p.send(fin|opPing, "")
		p.want(fin|opPong, "")
		p.send(fin|opCont, "]é"[:2])
		// A fragment may end within a character. Here the rest is missing.
		p.wantClose(1007)
		p.send(fin|opClose, closePayload(1007, ""))
		session.wantCode(t, 1007)

		p, session = s.connect()
		for _, c := range "é, a byte at a time" {
			text := string(c)
			p.send(opBinary, text[:1])
			for i := range text[1:] {
				p.send(opCont, text[1+i:2+i])
			}
			p.send(fin|opCont, "")
			if m := session.next(t); m != (wsMessage{serializer.OpBinary, text}) {
				t.Errorf("got %v, want %q", m, text)
			}
		}
		long := strings.Repeat("p", 125)
		for range 3 {
			p.send(fin|opPing, long)
		}
		for range 3 {
			p.want(fin|opPong, long)
		}
		p.finish(session)
	})
}

func TestWebSocketBytesOneAtATime(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		for _, n := range []int{3, 200} {
			text := strings.Repeat("s", n)
			for _, b := range maskedFrame(fin|opText, text) {
				p.write([]byte{b})
			}
			if m := session.next(t); m.data != text {
				t.Errorf("got %q", m.data)
			}
		}
		p.finish(session)
	})
}

func TestWebSocketViolations(t *testing.T) {
	t.Parallel()
	text := func(s string) []byte { return maskedFrame(fin|opText, s) }
	join := func(frames ...[]byte) (all []byte) {
		for _, f := range frames {
			all = append(all, f...)
		}
		return all
	}
	cases := []struct {
		name string
		code int
		data []byte
	}{
		{"unmasked", 1002, []byte{fin | opText, 1, 'x'}},
		{"unmasked ping", 1002, []byte{fin | opPing, 0}},
		{"rsv1 without compression", 1002, maskedFrame(fin|rsv1|opText, "x")},
		{"rsv2", 1002, maskedFrame(fin|0x20|opText, "x")},
		{"rsv3", 1002, maskedFrame(fin|0x10|opText, "x")},
		{"reserved opcode", 1002, maskedFrame(fin|3, "x")},
		{"reserved control opcode", 1002, maskedFrame(fin|11, "x")},
		{"continuation of nothing", 1002, maskedFrame(fin|opCont, "x")},
		{"text inside fragments", 1002, join(maskedFrame(opText, "x"), text("y"))},
		{"long ping", 1002, maskedFrame(fin|opPing, strings.Repeat("p", 126))},
		{"fragmented ping", 1002, maskedFrame(opPing, "x")},
		{"close of one byte", 1002, maskedFrame(fin|opClose, "x")},
		{"close code 999", 1002, maskedFrame(fin|opClose, closePayload(999, ""))},
		{"close code 1005", 1002, maskedFrame(fin|opClose, closePayload(1005, ""))},
		{"negative length", 1002, []byte{fin | opBinary, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 'x'}},
		{"invalid UTF-8", 1007, text("\xff\xfe")},
		{"a surrogate", 1007, text("\xed\xa0\x80")},
		{"too big", 1009, text(strings.Repeat("x", 1001))},
		{"too big in fragments", 1009,
			join(maskedFrame(opText, strings.Repeat("x", 600)), maskedFrame(fin|opCont, strings.Repeat("x", 401)))},
		{"far too big", 1009, text(strings.Repeat("x", 1_000_000))},
	}
	onEachPath(t, ws.Config{MaxMessage: 1000}, func(t *testing.T, s *wsServer) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				p, session := s.connect()
				other, otherSession := s.connect()
				p.sendText(strings.Repeat("x", 1000))
				session.next(t)
				session.text(t, "before")
				go p.Write(c.data)
				p.want(fin|opText, "before")
				p.wantClose(c.code)
				p.send(fin|opClose, closePayload(c.code, ""))
				p.wantEnd()
				p.Close()
				session.wantCode(t, c.code)
				if err := session.Send(textFrame("x"), transport.Delivery{}); err != transport.ErrClosed {
					t.Errorf("Send: %v", err)
				}
				otherSession.text(t, "the other lives")
				other.want(fin|opText, "the other lives")
				other.finish(otherSession)
			})
		}
	})
}

func TestWebSocketClientCloses(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		for _, c := range []struct {
			code, answer, closed int
			reason               string
		}{
			{0, 1000, 1005, ""}, {1000, 1000, 1000, ""}, {1000, 1000, 1000, "bye"}, {1001, 1000, 1001, ""},
			{1003, 1000, 1003, ""}, {1007, 1000, 1007, ""},
			{1011, 1000, 1011, ""}, {3000, 1000, 3000, ""}, {4999, 1000, 4999, "app"}, {1012, 1002, 1012, ""},
			{1000, 1002, 1000, "\xff"},
		} {
			p, session := s.connect()
			session.text(t, "before")
			p.send(fin|opClose, closePayload(c.code, c.reason))
			p.want(fin|opText, "before")
			p.wantClose(c.answer)
			p.wantEnd()
			err := session.end(t)
			if ce, ok := errors.AsType[*transport.CloseError](err); !ok ||
				*ce != (transport.CloseError{Code: c.closed, Reason: c.reason}) {
				t.Errorf("Closed(%v), want %d %q", err, c.closed, c.reason)
			}
		}
		// Frames after a close frame are ignored.
		p, session := s.connect()
		p.write(append(maskedFrame(fin|opClose, closePayload(1000, "")), maskedFrame(fin|opText, "late")...))
		p.wantClose(1000)
		session.wantCode(t, 1000)
		if len(session.received) > 0 {
			t.Error("a message after the close frame was received")
		}
	})
}

func TestWebSocketServerCloses(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		long := strings.Repeat("r", 300) + "é"
		for _, c := range []struct {
			code   int
			reason string
			sent   string
		}{
			{1001, "", closePayload(1001, "")},
			{1012, "restart", closePayload(1012, "restart")},
			{1012, long, closePayload(1012, long[:123])},
			{1012, strings.Repeat("é", 100), closePayload(1012, strings.Repeat("é", 61))},
			{1012, "\xff", closePayload(1012, "\uFFFD")},
			{4001, "", closePayload(4001, "")},
			{1006, "", closePayload(1011, "")},
			{0, "", closePayload(1011, "")},
		} {
			p, session := s.connect()
			for i := range 100 {
				session.text(t, fmt.Sprint(i))
			}
			session.Close(c.code, c.reason)
			session.Close(1000, "only the first call counts")
			if err := session.Send(textFrame("late"), transport.Delivery{}); err != transport.ErrClosed {
				t.Errorf("Send: %v", err)
			}
			for i := range 100 {
				p.want(fin|opText, fmt.Sprint(i))
			}
			p.want(fin|opClose, c.sent)
			p.sendText("this is too late")
			p.send(fin|opClose, c.sent[:2])
			p.wantEnd()
			err := session.end(t)
			if ce, ok := errors.AsType[*transport.CloseError](err); !ok ||
				*ce != (transport.CloseError{Code: c.code, Reason: c.reason}) {
				t.Errorf("Closed(%v), want %d %q", err, c.code, c.reason)
			}
			if len(session.received) > 0 {
				t.Error("a message was received after Close")
			}
		}
	})
}

// TestWebSocketInOpen checks that a session may close its connection, or send, before open returns.
func TestWebSocketInOpen(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		f := func(w *wsSession) {
			w.text(t, "welcome")
			w.Close(1013, "full")
		}
		s.prepare.Store(&f)
		p, session := s.connect()
		p.want(fin|opText, "welcome")
		p.want(fin|opClose, closePayload(1013, "full"))
		p.send(fin|opClose, closePayload(1013, ""))
		p.wantEnd()
		session.wantCode(t, 1013)
	})
}

func TestWebSocketOpenPanics(t *testing.T) {
	t.Parallel()
	s := newWSServer(t, ws.Config{})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		s.ws.Serve(w, r, "", func(transport.Conn) transport.Session { panic("open") })
	}))
	defer hs.Close()
	s.addr = hs.Listener.Addr().String()
	p := handshake(t, s.dial(), "/")
	p.wantEnd()
	s.ws.Wait()
}

// closePanics is a session whose Closed panics.
type closePanics struct{}

func (closePanics) Receive(serializer.Op, []byte) error { return nil }
func (closePanics) Closed(error)                        { panic("in Closed") }

// TestWebSocketClosedPanics checks that a panic in Closed ends that call only, whatever OnPanic
// does.
func TestWebSocketClosedPanics(t *testing.T) {
	t.Parallel()
	for name, onPanic := range map[string]func(chan<- any) func(any, []byte){
		"logged": func(notified chan<- any) func(any, []byte) { return func(v any, _ []byte) { notified <- v } },
		"panics": func(notified chan<- any) func(any, []byte) {
			return func(v any, _ []byte) { notified <- v; panic("in OnPanic") }
		},
		"none": func(notified chan<- any) func(any, []byte) { notified <- "in Closed"; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notified := make(chan any, 1)
			s := newWSServer(t, ws.Config{OnPanic: onPanic(notified)})
			hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// An error fails the test by itself.
				_ = s.ws.Serve(w, r, "", func(transport.Conn) transport.Session { return closePanics{} })
			}))
			defer hs.Close()
			s.addr = hs.Listener.Addr().String()
			p := handshake(t, s.dial(), "/")
			p.send(fin|opClose, closePayload(1000, ""))
			p.want(fin|opClose, closePayload(1000, ""))
			if v := <-notified; v != "in Closed" {
				t.Errorf("OnPanic got %v", v)
			}
			s.ws.Wait()
		})
	}
}

func TestWebSocketReceiveFails(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		for _, c := range []struct {
			name    string
			receive func() error
			sent    string
			check   func(err error) bool
		}{
			{"error", func() error { return errors.New("secret") }, closePayload(1011, ""), nil},
			{"close error", func() error {
				return fmt.Errorf("wrapped: %w", &transport.CloseError{Code: 4000, Reason: "no"})
			}, closePayload(4000, "no"), nil},
			{"panic", func() error { panic("secret") }, closePayload(1011, ""), func(err error) bool {
				pe, ok := errors.AsType[*safecall.PanicError](err)
				return ok && pe.Value == "secret" && strings.Contains(string(pe.Stack), "TestWebSocketReceiveFails") &&
					strings.Contains(pe.Error(), "secret")
			}},
			{"nil panic", func() error { panic(nil) }, closePayload(1011, ""), nil},
			{"goexit", func() error { runtime.Goexit(); return nil }, closePayload(1011, ""), nil},
		} {
			t.Run(c.name, func(t *testing.T) {
				f := func(w *wsSession) {
					w.receive = func(serializer.Op, []byte) error { return c.receive() }
				}
				s.prepare.Store(&f)
				p, session := s.connect()
				session.text(t, "before")
				p.write(append(maskedFrame(fin|opText, "one"), maskedFrame(fin|opText, "two")...))
				p.want(fin|opText, "before")
				p.want(fin|opClose, c.sent)
				p.send(fin|opClose, c.sent[:2])
				p.wantEnd()
				err := session.end(t)
				ce, ok := errors.AsType[*transport.CloseError](err)
				if !ok || closePayload(ce.Code, ce.Reason) != c.sent || c.check != nil && !c.check(err) {
					t.Errorf("Closed(%v)", err)
				}
			})
		}
	})
}

func TestWebSocketHalfClose(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		p.sendText("last")
		if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.wantEnd()
		if err := session.end(t); err != io.EOF {
			t.Errorf("Closed(%v)", err)
		}
		if m := session.next(t); m.data != "last" {
			t.Errorf("got %v", m)
		}

		p, session = s.connect() // within a frame
		p.write(maskedFrame(fin|opText, "last")[:5])
		p.Close()
		if err := session.end(t); err != io.EOF {
			t.Errorf("Closed(%v)", err)
		}
	})
}

func TestWebSocketReset(t *testing.T) {
	t.Parallel()
	for _, path := range wsPaths[:2] {
		t.Run(path.name, func(t *testing.T) {
			t.Parallel()
			s := startWS(t, ws.Config{}, path)
			p, session := s.connect()
			p.Conn.(*net.TCPConn).SetLinger(0)
			p.Close()
			err := session.end(t)
			if _, ok := errors.AsType[*transport.CloseError](err); ok || err == io.EOF {
				t.Errorf("Closed(%v)", err)
			}
			if err := session.Send(textFrame("x"), transport.Delivery{}); err != transport.ErrClosed {
				t.Errorf("Send: %v", err)
			}
			session.Close(1001, "")
		})
	}
}

// TestWebSocketWait checks that Wait returns when the connections have ended, and not before.
func TestWebSocketWait(t *testing.T) {
	t.Parallel()
	s := startWS(t, ws.Config{}, wsPaths[0])
	s.ws.Wait() // nothing to wait for
	p, session := s.connect()
	if n := s.ws.Stats().Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
	waited := make(chan struct{})
	go func() {
		s.ws.Wait()
		close(waited)
	}()
	session.text(t, "x")
	p.want(fin|opText, "x")
	select {
	case <-waited:
		t.Error("Wait returned while there was a connection")
	case <-time.After(20 * time.Millisecond):
	}
	p.finish(session)
	<-waited
	if n := s.ws.Stats().Connections; n != 0 {
		t.Errorf("%d connections", n)
	}
}
