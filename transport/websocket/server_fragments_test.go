package websocket_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"bennu.example/transport/websocket"
)

// TestFragments checks that a message has at most MaxFragments frames, whatever they contain and
// whatever is between them.
func TestFragments(t *testing.T) {
	pieces := func(n int) []byte { return fragmented(opText, strings.Repeat("*", n), 1) }
	empty := append(f(opText, ""), bytes.Repeat(f(opCont, ""), 8)...) // nine frames without a last one
	withPings := bytes.Join([][]byte{empty, f(fin|opPing, "1"), f(fin|opPing, "2"), f(fin|opCont, "x")}, nil)
	conform(t, websocket.Config{MaxFragments: 10}, []conformCase{
		{name: "as many as may be, again and again", send: bytes.Repeat(pieces(10), 5), want: []wsFrame{
			text("**********"), text("**********"), text("**********"), text("**********"), text("**********")}},
		{name: "in pieces of one byte", send: pieces(10), chop: 1, want: []wsFrame{text("**********")}},
		{name: "one more", send: pieces(11), code: 1009},
		{name: "one more, in pieces of one byte", send: pieces(11), chop: 1, code: 1009},
		{name: "empty ones", send: withPings, want: []wsFrame{pong("1"), pong("2"), text("x")}},
		{name: "one empty one more", send: append(empty, f(opCont, "")...), code: 1009},
		{name: "long ones", send: fragmented(opText, strings.Repeat("*", 11*5000), 5000), code: 1009},
	})
}

// TestFragmentsDefault checks that the default bound accepts a message of the maximum size in
// fragments of 64 bytes.
func TestFragmentsDefault(t *testing.T) {
	s := strings.Repeat("*", 1<<20)
	conform(t, websocket.Config{}, []conformCase{
		{name: "in fragments of 64", send: fragmented(opText, s, 64), want: []wsFrame{text(s)}},
		{name: "in fragments of 1", send: fragmented(opText, s[:17000], 1), code: 1009},
	})
}

// TestEndsAreCounted checks that connections are counted by the reason for their end.
func TestEndsAreCounted(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxFragments: 2, MaxMessage: 100}, func(t *testing.T, s *wsServer) {
		before := s.ws.Stats()
		for _, c := range []struct {
			send []byte
			code int
		}{
			{fragmented(opText, "***", 1), 1009},
			{f(fin|opText, strings.Repeat("*", 101)), 1009},
			{f(fin|opText, "\xff"), 1007},
			{f(fin|opCont, ""), 1002},
		} {
			p, session := s.connect()
			p.write(c.send)
			p.wantClose(c.code)
			p.Close()
			session.wantCode(t, c.code)
		}
		after := s.ws.Stats()
		if got := [3]uint64{after.TooBig - before.TooBig, after.Invalid - before.Invalid,
			after.Idle - before.Idle}; got != [3]uint64{2, 2, 0} {
			t.Errorf("too big, invalid, idle: %d", got)
		}
	})
}

// TestFragmentsChopped checks that the count does not depend on how the bytes are divided.
func TestFragmentsChopped(t *testing.T) {
	t.Parallel()
	for range 200 {
		var all []byte
		most, count := 0, 0
		for range 1 + rand.IntN(20) {
			first := byte(rand.IntN(2)) << 7
			if rand.IntN(4) == 0 {
				first |= opPing
			}
			all = append(all, f(first|byte(rand.IntN(3)),
				strings.Repeat("x", []int{0, 1, 125, 126, 65535, 65536}[rand.IntN(6)]))...)
			switch {
			case first&opPing != 0:
			case first&fin != 0:
				count = 0
			default:
				count++
				most = max(most, count)
			}
		}
		for _, max := range []int{most, most + 1} {
			scan := websocket.ScanFragments(max)
			ok := true
			for rest := all; len(rest) > 0 && ok; {
				n := min(1+rand.IntN([]int{1, 20, 100_000}[rand.IntN(3)]), len(rest))
				ok = scan(rest[:n])
				rest = rest[n:]
			}
			if ok != (max > most) && most > 0 {
				t.Fatalf("of %d fragments in succession, with %d allowed: %v", most, max, ok)
			}
		}
	}
}

func BenchmarkFragments(b *testing.B) {
	b.ReportAllocs()
	scan := websocket.ScanFragments(10)
	frame := f(fin|opText, strings.Repeat("x", 200))
	for b.Loop() {
		if !scan(frame) {
			b.Fatal("too many")
		}
	}
}
