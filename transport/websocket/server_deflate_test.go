package websocket_test

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	ws "bennu.example/transport/websocket"
)

const offerDeflate = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

// deflated returns the payload that a client sends with RSV1.
func deflated(data []byte) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	w.Write(data)
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

func inflated(t *testing.T, data []byte) string {
	t.Helper()
	b, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(data),
		strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWebSocketDeflateNegotiation(t *testing.T) {
	t.Parallel()
	const answer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	for _, c := range []struct {
		compress bool
		offer    string
		answer   string
	}{
		{false, "permessage-deflate", ""},
		{true, "", ""},
		{true, "permessage-deflate", answer},
		{true, "permessage-deflate; client_max_window_bits", answer},
		{true, "permessage-deflate; client_no_context_takeover; server_no_context_takeover", answer},
		{true, "permessage-deflate; server_max_window_bits=10", ""},
		{true, "permessage-deflate; server_max_window_bits=10, permessage-deflate", answer},
		{true, "permessage-deflate; unknown", ""},
		{true, "other", ""},
	} {
		s := startWS(t, ws.Config{Compress: c.compress}, wsPaths[0])
		p, session := s.connect("Sec-WebSocket-Extensions: " + c.offer)
		if got := p.res.Header.Get("Sec-WebSocket-Extensions"); got != c.answer {
			t.Errorf("compress %v, %q: answered %q, want %q", c.compress, c.offer, got, c.answer)
		}
		// The connection works whether or not compression was negotiated.
		text := strings.Repeat("a long text compresses well. ", 100)
		session.text(t, text)
		first, b := p.frame()
		if first == fin|rsv1|opText && c.answer != "" {
			b = []byte(inflated(t, b))
		} else if first != fin|opText || c.answer != "" {
			t.Errorf("%q: first byte %#x", c.offer, first)
		}
		if string(b) != text {
			t.Errorf("%q: got %.20q", c.offer, b)
		}
		p.finish(session)
	}
}

func TestWebSocketDeflateOut(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{Compress: true, MaxQueue: 8 << 20}, func(t *testing.T, s *wsServer) {
		noise := make([]byte, 5000)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		long := strings.Repeat("a long text compresses well. ", 10_000)
		frames := []*serializer.Frame{
			textFrame("short"),
			textFrame(strings.Repeat("not so short ", 100)),
			{Op: serializer.OpBinary, Data: noise},
			textFrame(long),
			textFrame(""),
			{Op: serializer.OpBinary, Data: []byte(long)},
		}
		var all sync.WaitGroup
		for i := range 8 {
			var offer []string
			if i%4 != 0 {
				offer = append(offer, offerDeflate)
			}
			p, session := s.connect(offer...)
			all.Go(func() {
				for _, f := range frames {
					if err := session.Send(f, transport.Delivery{}); err != nil {
						t.Error(err)
					}
				}
				for k, f := range frames {
					first, b, err := p.read()
					if err != nil {
						t.Error(err)
						return
					}
					shorter := len(offer) > 0 && len(f.Data) > 1000 && f.Op == serializer.OpText || len(offer) > 0 && k == 5
					if (first&rsv1 != 0) != shorter {
						t.Errorf("frame %d, first byte %#x", k, first)
					}
					if first&rsv1 != 0 {
						b = []byte(inflated(t, b))
					}
					if serializer.Op(first&15) != f.Op || !bytes.Equal(b, f.Data) {
						t.Errorf("frame %d is another", k)
					}
				}
			})
		}
		all.Wait()
		for k, f := range frames {
			z := f.Deflated(func([]byte) []byte { return nil })
			if (z != nil) != (k == 1 || k == 3 || k == 5) {
				t.Errorf("frame %d: shared form of %d bytes", k, len(z))
			}
		}
	})
}

// TestWebSocketDeflateEcho checks that the library's client sends and receives compressed messages.
func TestWebSocketDeflateEcho(t *testing.T) {
	t.Parallel()
	onEachPath(t, ws.Config{Compress: true}, func(t *testing.T, s *wsServer) {
		echo := func(w *wsSession) {
			w.receive = func(op serializer.Op, data []byte) error {
				return w.Send(&serializer.Frame{Op: op, Data: data}, transport.Delivery{})
			}
		}
		s.prepare.Store(&echo)
		c := dialLibrary(t, s, &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover,
			CompressionThreshold: 1})
		session := <-s.opened
		for i := range 50 {
			text := strings.Repeat(fmt.Sprint("message ", i), i*i)
			if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if _, b, err := c.Read(t.Context()); err != nil || string(b) != text {
				t.Fatalf("%d bytes came back as %d: %v", len(text), len(b), err)
			}
		}
		c.Close(1001, "")
		session.wantCode(t, 1001)
	})
}

func TestWebSocketDeflateIn(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	onEachPath(t, ws.Config{Compress: true, MaxMessage: limit}, func(t *testing.T, s *wsServer) {
		for _, c := range []struct {
			name string
			data []byte
			size int // of the message that the session receives
			code int // of the close frame, if the message is refused
		}{
			{"deflated", maskedFrame(fin|rsv1|opText, deflated([]byte("hello"))), 5, 0},
			{"empty", maskedFrame(fin|rsv1|opText, "\x00"), 0, 0},
			{"as large as may be", maskedFrame(fin|rsv1|opText, deflated(make([]byte, limit))), limit, 0},
			{"a byte larger", maskedFrame(fin|rsv1|opText, deflated(make([]byte, limit+1))), 0, 1009},
			{"a bomb", maskedFrame(fin|rsv1|opText, deflated(make([]byte, 10<<20))), 0, 1009},
			{"corrupt", maskedFrame(fin|rsv1|opText, "\xff\xff\xff"), 0, 1007},
			{"rsv1 in a continuation", append(maskedFrame(rsv1|opText, "\x00"), maskedFrame(fin|rsv1|opCont, "")...), 0, 1002},
			{"rsv1 in a ping", maskedFrame(fin|rsv1|opPing, ""), 0, 1002},
		} {
			p, session := s.connect(offerDeflate)
			go p.Write(c.data)
			if c.code == 0 {
				if m := session.next(t); len(m.data) != c.size {
					t.Errorf("%s: %d bytes, want %d", c.name, len(m.data), c.size)
				}
				p.finish(session)
				continue
			}
			p.wantClose(c.code)
			p.Close()
			session.wantCode(t, c.code)
		}
	})
}
