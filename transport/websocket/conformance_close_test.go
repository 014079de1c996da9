package websocket_test

import (
	"fmt"
	"strings"
	"testing"

	"bennu.example/transport/websocket"
)

// TestConformance07Close is Autobahn 7: closing. RFC 6455, 5.5.1 and 7.
func TestConformance07Close(t *testing.T) {
	closing := f(fin|opClose, closePayload(1000, ""))
	big := strings.Repeat("b", 256<<10)
	cases := []conformCase{
		{name: "a message, then close", send: frames(f(fin|opText, "last"), closing), want: []wsFrame{text("last")},
			end: true, code: 1000},
		{name: "close twice", send: frames(closing, closing), end: true, code: 1000},
		{name: "a ping after close", send: frames(closing, f(fin|opPing, "x")), end: true, code: 1000},
		{name: "a message after close", send: frames(closing, f(fin|opText, "x")), end: true, code: 1000},
		{name: "garbage after close", send: frames(closing, []byte("garbage, many bytes of it")), end: true, code: 1000},
		{name: "close inside of a message", send: frames(f(opText, "a"), closing, f(fin|opCont, "b")), end: true, code: 1000},
		{name: "a big message, another, close, a ping",
			send: frames(f(fin|opText, big), f(fin|opText, "x"), closing, f(fin|opPing, "")),
			want: []wsFrame{text(big), text("x")}, end: true, code: 1000},
		{name: "an octet at a time", send: frames(f(fin|opText, "last"), closing), chop: 1, want: []wsFrame{text("last")},
			end: true, code: 1000},
		{name: "without a code", send: f(fin|opClose, ""), end: true, code: 1000},
		{name: "a payload of 1 (5.5.1)", send: f(fin|opClose, "x"), code: 1002},
		{name: "with a reason", send: f(fin|opClose, closePayload(1000, "Hello, wörld!")), end: true, code: 1000},
		{name: "with a reason of 123", send: f(fin|opClose, closePayload(1000, strings.Repeat("*", 123))), end: true,
			code: 1000},
		{name: "with a reason of 124 (5.5)", send: f(fin|opClose, closePayload(1000, strings.Repeat("*", 124))), code: 1002},
		{name: "deviates: a reason that is not UTF-8 (Autobahn 7.5.1: 1007)",
			send: f(fin|opClose, closePayload(1000, "\xed\xa0\x80")), end: true, code: 1002},
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		cases = append(cases, conformCase{name: fmt.Sprintf("code %d", code),
			send: f(fin|opClose, closePayload(code, "why")), end: true, code: 1000})
	}
	for _, code := range []int{1012, 1013, 1014} {
		cases = append(cases, conformCase{name: fmt.Sprintf("deviates: code %d, of IANA's registry", code),
			send: f(fin|opClose, closePayload(code, "")), end: true, code: 1002})
	}
	// 7.4: codes that must not be sent, or have no meaning.
	for _, code := range []int{1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		for _, reason := range []string{"", "why"} {
			cases = append(cases, conformCase{name: fmt.Sprintf("code %d, reason %q", code, reason),
				send: f(fin|opClose, closePayload(code, reason)), end: true, code: 1002})
		}
	}
	cases = append(cases, conformCase{name: "code 0", send: f(fin|opClose, "\x00\x00"), end: true, code: 1002})
	conform(t, websocket.Config{}, cases)
}
