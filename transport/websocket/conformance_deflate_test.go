package websocket_test

import (
	"bytes"
	"compress/flate"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// deflatedAt returns the payload that a client sends with RSV1, compressed at a level of
// compress/flate.
func deflatedAt(level int, s string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write([]byte(s)) // a buffer does not fail
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// deflatedInBlocks returns such a payload in several blocks.
func deflatedInBlocks(parts ...string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		panic(err)
	}
	for _, p := range parts {
		_, _ = w.Write([]byte(p)) // a buffer does not fail
		_ = w.Flush()
	}
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// deflatedFinal returns such a payload whose last block is marked as final (RFC 7692, 7.2.3.4).
func deflatedFinal(s string) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write([]byte(s)) // a buffer does not fail
	_ = w.Close()
	return b.String() + "\x00"
}

// TestConformance12Deflate is Autobahn 12: compression. RFC 7692. The server may compress its
// answer or not; each case has the decompressed answer.
func TestConformance12Deflate(t *testing.T) {
	t.Parallel()
	const z = rsv1
	long := strings.Repeat("compression without context takeover; ", 5000)
	noise := make([]byte, 20_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	small := deflatedAt(-1, "Hello")
	cases := []conformCase{
		{name: "the RFC's example (7.2.3.1)", send: f(fin|z|opText, "\xf2\x48\xcd\xc9\xc9\x07\x00"),
			want: []wsFrame{text("Hello")}},
		{name: "the same in two fragments (7.2.3.1)",
			send: frames(f(z|opText, "\xf2\x48\xcd"), f(fin|opCont, "\xc9\xc9\x07\x00")), want: []wsFrame{text("Hello")}},
		{name: "an uncompressed block (7.2.3.3)", send: f(fin|z|opText, "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"),
			want: []wsFrame{text("Hello")}},
		{name: "a last block (7.2.3.4)", send: f(fin|z|opText, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"),
			want: []wsFrame{text("Hello")}},
		{name: "a last block of our own", send: f(fin|z|opText, deflatedFinal(long)), want: []wsFrame{text(long)}},
		{name: "two blocks in a message (7.2.3.5)",
			send: f(fin|z|opText, "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), want: []wsFrame{text("Hello")}},
		{name: "many blocks", send: f(fin|z|opText, deflatedInBlocks("a", "", long, "b")),
			want: []wsFrame{text("a" + long + "b")}},
		{name: "an empty message (7.2.3.6)", send: f(fin|z|opText, "\x00"), want: []wsFrame{text("")}},
		{name: "binary", send: f(fin|z|opBinary, deflatedAt(9, string(noise))), want: []wsFrame{blob(string(noise))}},
		{name: "a message that is not compressed", send: frames(f(fin|opText, "plain"), f(fin|z|opText, small)),
			want: []wsFrame{text("plain"), text("Hello")}},
		{name: "an octet at a time", send: f(fin|z|opText, small), chop: 1, want: []wsFrame{text("Hello")}},
		{name: "an octet in a fragment", send: fragmented(z|opText, deflatedAt(-1, "é, an octet at a time"), 1),
			want: []wsFrame{text("é, an octet at a time")}},
		{name: "empty fragments around", send: frames(f(z|opText, ""), f(opCont, small), f(fin|opCont, "")),
			want: []wsFrame{text("Hello")}},
		{name: "a ping between", send: frames(f(z|opText, small[:3]), f(fin|opPing, "p"), f(fin|opCont, small[3:])),
			want: []wsFrame{pong("p"), text("Hello")}},
		{name: "RSV1 in a ping (6.1)", send: f(fin|z|opPing, "p"), code: 1002},
		{name: "RSV1 in a close", send: f(fin|z|opClose, closePayload(1000, "")), code: 1002},
		{name: "RSV1 in a continuation (6.1)", send: frames(f(z|opText, small[:3]), f(fin|z|opCont, small[3:])), code: 1002},
		{name: "RSV2", send: f(fin|0x20|opText, "x"), code: 1002},
		{name: "RSV1 and RSV3", send: f(fin|z|0x10|opText, small), code: 1002},
		{name: "inflates to invalid UTF-8", send: f(fin|z|opText, deflatedAt(-1, "\xed\xa0\x80")), code: 1007},
		{name: "inflates to half a character", send: f(fin|z|opText, deflatedAt(-1, "\xe2\x82")), code: 1007},
		{name: "a block of a type that is none", send: f(fin|z|opText, "\xff\xff\xff"), code: 1007},
		{name: "too long when inflated", send: f(fin|z|opText, deflatedAt(9, strings.Repeat("x", 4<<20+1))), code: 1009},
		{name: "a distance beyond the message's beginning: client_no_context_takeover (7.1.1.2)",
			send: frames(f(fin|z|opText, small), f(fin|z|opText, secondWithContext("Hello"))), want: []wsFrame{text("Hello")},
			code: 1007},
	}
	for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, 1, 6, 9} {
		for _, n := range []int{16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20} {
			s := (strings.Repeat(long, 1+n/len(long)))[:n]
			cases = append(cases, conformCase{name: fmt.Sprintf("level %d, %d bytes", level, n),
				send: f(fin|z|opText, deflatedAt(level, s)), want: []wsFrame{text(s)}},
				conformCase{name: fmt.Sprintf("level %d, %d bytes in fragments of 256", level, n),
					send: fragmented(z|opText, deflatedAt(level, s), 256), want: []wsFrame{text(s)}})
		}
	}
	onEachPath(t, websocket.Config{Compress: true, MaxMessage: 4 << 20, MaxQueue: 16 << 20},
		func(t *testing.T, s *wsServer) {
			echoing(s)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					p, session := s.connect(offerDeflate)
					p.t = t
					p.SetDeadline(time.Now().Add(time.Minute))
					c.inflate = true
					c.run(p, session)
				})
			}
		})
}

// secondWithContext returns the second of two equal messages of a client that keeps its window: it
// refers to the first.
func secondWithContext(s string) string {
	var b bytes.Buffer
	w, err := flate.NewWriterDict(&b, flate.BestCompression, []byte(s+s))
	if err != nil {
		panic(err)
	}
	_, _ = w.Write([]byte(s)) // a buffer does not fail
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// TestConformance12NoContextTakeover checks that the server keeps no window between messages: equal
// messages are equal on the wire.
func TestConformance12NoContextTakeover(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{Compress: true}, func(t *testing.T, s *wsServer) {
		p, session := s.connect(offerDeflate)
		long := strings.Repeat("the same again; ", 200)
		var was []byte
		for range 3 {
			if err := session.Send(&serializer.Frame{Op: serializer.OpText, Data: []byte(long)},
				transport.Delivery{}); err != nil {
				t.Fatal(err)
			}
			first, b := p.frame()
			if first != fin|rsv1|opText || inflated(t, b) != long {
				t.Fatalf("frame %#x of %d bytes", first, len(b))
			}
			if was != nil && !bytes.Equal(b, was) {
				t.Errorf("%d bytes after %d", len(b), len(was))
			}
			was = b
		}
		p.finish(session)
	})
}

// TestConformance13Offers is Autobahn 13: offers of compression. RFC 7692, 5 and 7.1. The server
// declines an offer that is invalid or that it cannot meet, and considers the next. The connection
// works in every case.
func TestConformance13Offers(t *testing.T) {
	t.Parallel()
	const answer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	s := startWS(t, websocket.Config{Compress: true}, wsPaths[0])
	echoing(s)
	for _, c := range []struct{ offer, answer string }{
		{"permessage-deflate", answer},
		{"permessage-deflate; client_no_context_takeover", answer},
		{"permessage-deflate; server_no_context_takeover", answer},
		{"permessage-deflate; client_no_context_takeover; server_no_context_takeover", answer},
		{"permessage-deflate; client_max_window_bits", answer},
		{"permessage-deflate; client_max_window_bits=15", answer},
		{"permessage-deflate; client_max_window_bits=9", answer}, // a smaller window can be decompressed, too
		{"permessage-deflate; client_no_context_takeover; client_max_window_bits", answer},
		{"foo, permessage-deflate", answer},
		{"permessage-deflate; server_max_window_bits=9, permessage-deflate", answer},
		{"permessage-deflate; server_max_window_bits=9", ""}, // deviates
		{"permessage-deflate; server_max_window_bits", ""},   // invalid: it must have a value
		{"permessage-deflate; unknown", ""},
		{"permessage-deflate; unknown=1", ""},
		{"x-webkit-deflate-frame", ""},
		{"foo; bar=1", ""},
		{"", ""},
	} {
		p, session := s.connect("Sec-WebSocket-Extensions: " + c.offer)
		if got := p.res.Header.Get("Sec-WebSocket-Extensions"); got != c.answer {
			t.Errorf("%q is answered %q, want %q", c.offer, got, c.answer)
		}
		all := conformCase{send: f(fin|opText, "works"), want: []wsFrame{text("works")}, inflate: true}
		if c.answer != "" {
			all.send = frames(all.send, f(fin|rsv1|opText, deflatedAt(9, strings.Repeat("deflated", 500))))
			all.want = append(all.want, text(strings.Repeat("deflated", 500)))
		}
		all.run(p, session)
	}
	// If the offer was declined, RSV1 is a violation.
	p, session := s.connect("Sec-WebSocket-Extensions: foo")
	conformCase{send: f(fin|rsv1|opText, deflatedAt(9, "x")), code: 1002}.run(p, session)
}
