package websocket_test

import (
	"fmt"
	"strings"
	"testing"

	"bennu.example/transport/websocket"
)

// fragmented returns a message in frames of n bytes.
func fragmented(op byte, s string, n int) (all []byte) {
	first := op
	for len(s) > n {
		all = append(all, f(first, s[:n])...)
		first, s = opCont, s[n:]
	}
	return append(all, f(first|fin, s)...)
}

// TestConformance09Limits is Autobahn 9: limits and performance. It checks that everything comes
// back, not how fast.
func TestConformance09Limits(t *testing.T) {
	const most = 4 << 20
	var cases []conformCase
	for _, n := range []int{64 << 10, 256 << 10, 1 << 20, most} {
		s := strings.Repeat("*", n)
		cases = append(cases,
			conformCase{name: fmt.Sprintf("text of %d", n), send: f(fin|opText, s), want: []wsFrame{text(s)}},
			conformCase{name: fmt.Sprintf("binary of %d", n), send: f(fin|opBinary, s), want: []wsFrame{blob(s)}})
	}
	s := strings.Repeat("é", 128<<10)
	for _, n := range []int{63, 256, 1 << 10, 4 << 10, 64 << 10} { // 63 divides characters
		cases = append(cases, conformCase{name: fmt.Sprintf("text in fragments of %d", n), send: fragmented(opText, s, n),
			want: []wsFrame{text(s)}},
			conformCase{name: fmt.Sprintf("binary in fragments of %d", n), send: fragmented(opBinary, s, n),
				want: []wsFrame{blob(s)}})
	}
	for _, n := range []int{64, 128, 1 << 10, 2 << 10} {
		cases = append(cases, conformCase{name: fmt.Sprintf("text in pieces of %d", n), send: f(fin|opText, s), chop: n,
			want: []wsFrame{text(s)}})
	}
	for _, n := range []int{0, 16, 64, 256, 1 << 10, 4 << 10, 16 << 10} {
		c := conformCase{name: fmt.Sprintf("500 messages of %d", n)}
		for i := range 500 {
			s := strings.Repeat(string(rune('a'+i%26)), n)
			c.send = append(c.send, f(fin|opText, s)...)
			c.want = append(c.want, text(s))
		}
		cases = append(cases, c)
	}
	over := strings.Repeat("*", most+1)
	cases = append(cases,
		conformCase{name: "a byte too many", send: f(fin|opBinary, over), code: 1009},
		conformCase{name: "a byte too many, in fragments", send: fragmented(opText, over, 64<<10), code: 1009})
	conform(t, websocket.Config{MaxMessage: most, MaxQueue: 16 << 20}, cases)
}

// TestConformance10AutoFragments is Autobahn 10: fragmentation by the client. The server receives
// frames of 1,300 bytes.
func TestConformance10AutoFragments(t *testing.T) {
	s := strings.Repeat("*", 65536)
	conform(t, websocket.Config{}, []conformCase{
		{name: "deviates: echoed in one frame", send: fragmented(opText, s, 1300), want: []wsFrame{text(s)}},
		{name: "with a ping after every fragment", send: pinged(s, 1300), want: append(pongsFor(s, 1300), text(s))},
	})
}

// pinged returns a message in fragments with a ping after each except the last.
func pinged(s string, n int) (all []byte) {
	first := byte(opText)
	for len(s) > n {
		all = append(append(all, f(first, s[:n])...), f(fin|opPing, fmt.Sprint(len(s)))...)
		first, s = opCont, s[n:]
	}
	return append(all, f(first|fin, s)...)
}

func pongsFor(s string, n int) (all []wsFrame) {
	for ; len(s) > n; s = s[n:] {
		all = append(all, pong(fmt.Sprint(len(s))))
	}
	return all
}
