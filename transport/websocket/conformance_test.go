package websocket_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// The suite in conformance_*_test.go covers the categories of the Autobahn test suite for servers,
// whose numbers are in the names of the tests: framing, pings and pongs, reserved bits, opcodes,
// fragmentation, UTF-8, closing, limits, auto-fragmentation, compression. The server under test
// echoes. Every connection must end as the table says: with the code of the violation, or otherwise
// in good order, and with nothing unexpected before.
//
// Some results differ from what Autobahn calls OK. The names of these cases contain "deviates":
//
//   - Text that is not UTF-8 is refused at the end of its message, not as soon as possible
//     (Autobahn's non-strict). The library returns a message in pieces that are not its fragments,
//     and a channel message is useful only as a whole. The session never receives it.
//   - A length in more bytes than necessary is accepted, although RFC 6455, 5.2 forbids to send it.
//     The library does not check it, and it does no harm.
//   - A close frame is answered with 1000, not with its own code (RFC 6455, 5.5.1 says "typically
//     echoes"). Bandit does the same, and Phoenix's clients are used to it.
//   - Close codes 1012 to 1014, which are newer than the RFC, are answered with 1002, as by Bandit.
//   - A reason that is not UTF-8 is answered with 1002, not 1007, as by Bandit.
//   - An offer of compression with server_max_window_bits or an unknown parameter is declined,
//     because Go's compressor has one window size.
//   - Messages are never answered in fragments, whatever their size. Clients accept them whole.

// A conformCase is what the client sends on one connection, and what must come back.
type conformCase struct {
	name string
	send []byte    // frames
	chop int       // size of the pieces in which it is written; zero means one piece
	want []wsFrame // the frames before the close frame
	code int       // of the close frame with which the server answers a violation; zero means no violation
	end  bool      // send ends with a close frame of the client, which is answered with code

	inflate bool // the answer may be compressed
}

// wsFrame is a frame from the server.
type wsFrame struct {
	first   byte
	payload string
}

func text(s string) wsFrame { return wsFrame{fin | opText, s} }
func blob(s string) wsFrame { return wsFrame{fin | opBinary, s} }
func pong(s string) wsFrame { return wsFrame{fin | opPong, s} }

// f returns a masked frame, and frames joins several.
func f(first byte, payload string) []byte { return maskedFrame(first, payload) }

func frames(all ...[]byte) []byte { return bytes.Join(all, nil) }

// echoing makes the server's sessions echo.
func echoing(s *wsServer) {
	echo := func(w *wsSession) {
		w.receive = func(op serializer.Op, data []byte) error {
			return w.Send(&serializer.Frame{Op: op, Data: data}, transport.Delivery{})
		}
	}
	s.prepare.Store(&echo)
}

// conform runs the cases on every path of the server.
func conform(t *testing.T, cfg websocket.Config, cases []conformCase, header ...string) {
	t.Parallel()
	onEachPath(t, cfg, func(t *testing.T, s *wsServer) {
		echoing(s)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				p, session := s.connect(header...)
				p.t = t
				p.SetDeadline(time.Now().Add(time.Minute))
				c.run(p, session)
			})
		}
	})
}

func (c conformCase) run(p *wsPeer, session *wsSession) {
	p.t.Helper()
	written := make(chan struct{})
	go func() { // otherwise both sides could wait for each other
		defer close(written)
		for piece := range slices.Chunk(c.send, max(1, min(len(c.send), orAll(c.chop)))) {
			if _, err := p.Write(piece); err != nil {
				return // after a violation the server may not read everything
			}
		}
	}()
	for _, want := range c.want {
		if !c.inflate {
			p.want(want.first, want.payload)
			continue
		}
		first, b := p.frame()
		payload := string(b)
		if first&rsv1 != 0 {
			payload = inflated(p.t.(*testing.T), b)
		}
		if first&^rsv1 != want.first || payload != want.payload {
			p.t.Fatalf("got frame %#x %.100q of %d bytes, want %#x %.100q of %d", first, payload, len(payload), want.first,
				want.payload, len(want.payload))
		}
	}
	switch {
	case c.end:
		p.wantClose(c.code)
	case c.code != 0:
		p.wantClose(c.code)
		<-written
		_, _ = p.Write(maskedFrame(fin|opClose, closePayload(c.code, ""))) // the server may have closed already
	default:
		<-written
		p.send(fin|opClose, closePayload(1000, ""))
		p.wantClose(1000)
	}
	p.wantEnd()
	<-written
	p.Close() // after a violation the server has half-closed TCP, and waits for the client
	session.end(p.t)
}

func orAll(n int) int {
	if n == 0 {
		return 1 << 30
	}
	return n
}

// TestConformance01Framing is Autobahn 1: framing. RFC 6455, 5.2.
func TestConformance01Framing(t *testing.T) {
	var cases []conformCase
	for _, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		s := strings.Repeat("*", n)
		b := strings.Repeat("\xfe", n)
		cases = append(cases,
			conformCase{name: fmt.Sprintf("text of %d", n), send: f(fin|opText, s), want: []wsFrame{text(s)}},
			conformCase{name: fmt.Sprintf("binary of %d", n), send: f(fin|opBinary, b), want: []wsFrame{blob(b)}})
	}
	s := strings.Repeat("*", 65536)
	cases = append(cases,
		conformCase{name: "text of 65536 in pieces of 997", send: f(fin|opText, s), chop: 997, want: []wsFrame{text(s)}},
		conformCase{name: "binary of 65536 in pieces of 997", send: f(fin|opBinary, s), chop: 997, want: []wsFrame{blob(s)}},
		conformCase{name: "a client's frame must be masked (5.1)", send: []byte{fin | opText, 1, 'x'}, code: 1002},
		conformCase{name: "a length of 64 bits is below 2^63",
			send: []byte{fin | opText, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 'x'}, code: 1002},
		conformCase{name: "deviates: 16 bits for a length of 1",
			send: []byte{fin | opText, 0x80 | 126, 0, 1, 0, 0, 0, 0, 'x'}, want: []wsFrame{text("x")}},
		conformCase{name: "deviates: 64 bits for a length of 1",
			send: []byte{fin | opText, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 'x'}, want: []wsFrame{text("x")}},
	)
	conform(t, websocket.Config{}, cases)
}

// TestConformance02Pings is Autobahn 2: pings and pongs. RFC 6455, 5.5.2 and 5.5.3.
func TestConformance02Pings(t *testing.T) {
	long := strings.Repeat("\xfe", 125)
	var ten []byte
	var tenPongs []wsFrame
	for i := range 10 {
		ten = append(ten, f(fin|opPing, fmt.Sprint("payload ", i))...)
		tenPongs = append(tenPongs, pong(fmt.Sprint("payload ", i)))
	}
	conform(t, websocket.Config{}, []conformCase{
		{name: "empty", send: f(fin|opPing, ""), want: []wsFrame{pong("")}},
		{name: "text", send: f(fin|opPing, "Hello, world!"), want: []wsFrame{pong("Hello, world!")}},
		{name: "not text", send: f(fin|opPing, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
			want: []wsFrame{pong("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")}},
		{name: "of 125", send: f(fin|opPing, long), want: []wsFrame{pong(long)}},
		{name: "of 126 (5.5)", send: f(fin|opPing, long+"x"), code: 1002},
		{name: "of 125, an octet at a time", send: f(fin|opPing, long), chop: 1, want: []wsFrame{pong(long)}},
		{name: "a pong that nobody asked for", send: f(fin|opPong, "")},
		{name: "one with a payload", send: f(fin|opPong, "unsolicited")},
		{name: "one, then a ping", send: frames(f(fin|opPong, "unsolicited"), f(fin|opPing, "ping")),
			want: []wsFrame{pong("ping")}},
		{name: "ten", send: ten, want: tenPongs},
		{name: "ten, an octet at a time", send: ten, chop: 1, want: tenPongs},
	})
}

// TestConformance03Reserved is Autobahn 3: reserved bits. RFC 6455, 5.2: they must be 0 unless an
// extension defines them.
func TestConformance03Reserved(t *testing.T) {
	var cases []conformCase
	for rsv := byte(1); rsv <= 7; rsv++ {
		for _, k := range []struct {
			name string
			bad  []byte
		}{
			{"text", f(fin|rsv<<4|opText, "small")},
			{"an empty text", f(fin|rsv<<4|opText, "")},
			{"binary", f(fin|rsv<<4|opBinary, "\x00\xff")},
			{"ping", f(fin|rsv<<4|opPing, "x")},
			{"close", f(fin|rsv<<4|opClose, closePayload(1000, ""))},
		} {
			cases = append(cases,
				conformCase{name: fmt.Sprintf("%d in %s", rsv, k.name), send: k.bad, code: 1002},
				conformCase{name: fmt.Sprintf("%d in %s, after a message, before a ping", rsv, k.name),
					send: frames(f(fin|opText, "good"), k.bad, f(fin|opPing, "")), want: []wsFrame{text("good")}, code: 1002})
		}
		cases = append(cases, conformCase{name: fmt.Sprintf("%d, an octet at a time", rsv), chop: 1, code: 1002,
			send: frames(f(fin|opText, "good"), f(fin|rsv<<4|opText, "bad")), want: []wsFrame{text("good")}})
	}
	conform(t, websocket.Config{}, cases)
}

// TestConformance04Opcodes is Autobahn 4: opcodes. RFC 6455, 5.2: an unknown opcode fails the
// connection.
func TestConformance04Opcodes(t *testing.T) {
	var cases []conformCase
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		for _, payload := range []string{"", "x"} {
			cases = append(cases,
				conformCase{name: fmt.Sprintf("%d with %q", op, payload), send: f(fin|op, payload), code: 1002},
				conformCase{name: fmt.Sprintf("%d with %q, after a message, before a ping", op, payload),
					send: frames(f(fin|opText, "good"), f(fin|op, payload), f(fin|opPing, "")), want: []wsFrame{text("good")},
					code: 1002})
		}
		cases = append(cases, conformCase{name: fmt.Sprintf("%d without FIN", op), send: f(op, "x"), code: 1002})
	}
	conform(t, websocket.Config{}, cases)
}

// TestConformance05Fragments is Autobahn 5: fragmentation. RFC 6455, 5.4.
func TestConformance05Fragments(t *testing.T) {
	two := frames(f(opText, "fragment1"), f(fin|opCont, "fragment2"))
	both := []wsFrame{text("fragment1fragment2")}
	between := frames(f(opText, "fragment1"), f(fin|opPing, "ping"), f(fin|opCont, "fragment2"))
	var five, fivePinged []byte
	var want string
	var pongs []wsFrame
	for i := range 5 {
		first := byte(opCont)
		switch i {
		case 0:
			first = opText
		case 4:
			first = fin | opCont
		}
		part := fmt.Sprint("fragment", i)
		five = append(five, f(first, part)...)
		if i > 0 {
			fivePinged = append(fivePinged, f(fin|opPing, part)...)
			pongs = append(pongs, pong(part))
		}
		fivePinged = append(fivePinged, f(first, part)...)
		want += part
	}
	conform(t, websocket.Config{}, []conformCase{
		{name: "a ping in fragments", send: frames(f(opPing, "a"), f(fin|opCont, "b")), code: 1002},
		{name: "a pong in fragments", send: frames(f(opPong, "a"), f(fin|opCont, "b")), code: 1002},
		{name: "a close in fragments", send: frames(f(opClose, closePayload(1000, "")), f(fin|opCont, "b")), code: 1002},
		{name: "two", send: two, want: both},
		{name: "two, in pieces of 7", send: two, chop: 7, want: both},
		{name: "two, an octet at a time", send: two, chop: 1, want: both},
		{name: "a ping between", send: between, want: []wsFrame{pong("ping"), both[0]}},
		{name: "a ping between, an octet at a time", send: between, chop: 1, want: []wsFrame{pong("ping"), both[0]}},
		{name: "a pong between", send: frames(f(opText, "a"), f(fin|opPong, "x"), f(fin|opCont, "b")),
			want: []wsFrame{text("ab")}},
		{name: "binary", send: frames(f(opBinary, "\xff"), f(fin|opCont, "\xfe")), want: []wsFrame{blob("\xff\xfe")}},
		{name: "empty ones", send: frames(f(opText, ""), f(opCont, ""), f(fin|opCont, "")), want: []wsFrame{text("")}},
		{name: "empty but for the middle", send: frames(f(opText, ""), f(opCont, "middle"), f(fin|opCont, "")),
			want: []wsFrame{text("middle")}},
		{name: "five", send: five, want: []wsFrame{text(want)}},
		{name: "five with pings between", send: fivePinged, want: append(pongs, text(want))},
		{name: "five with pings between, an octet at a time", send: fivePinged, chop: 1,
			want: append(slices.Clone(pongs), text(want))},
		{name: "the end of nothing", send: frames(f(fin|opCont, "x"), f(fin|opText, "y")), code: 1002},
		{name: "the end of nothing, an octet at a time", send: frames(f(fin|opCont, "x"), f(fin|opText, "y")), chop: 1,
			code: 1002},
		{name: "the middle of nothing", send: frames(f(opCont, "x"), f(fin|opText, "y")), code: 1002},
		{name: "the middle of nothing, an octet at a time", send: frames(f(opCont, "x"), f(fin|opText, "y")), chop: 1,
			code: 1002},
		{name: "one more than two", send: frames(two, f(opCont, "fragment3"), f(fin|opText, "x")), want: both, code: 1002},
		{name: "one too few, then another message", send: frames(f(opText, "a"), f(opText, "b"), f(fin|opCont, "c")),
			code: 1002},
		{name: "text, then binary instead of a continuation", send: frames(f(opText, "a"), f(fin|opBinary, "b")), code: 1002},
		{name: "text twice, both with FIN missing", send: frames(f(opText, "a"), f(fin|opText, "b")), code: 1002},
		{name: "two messages", send: frames(two, f(fin|opText, "next")), want: append(slices.Clone(both), text("next"))},
	})
}
