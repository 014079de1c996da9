package websocket_test

import (
	"fmt"
	"testing"

	"bennu.example/transport/websocket"
)

// octets returns s as text with one octet in each fragment.
func octets(s string) (all []byte) {
	all = f(opText, "")
	for i := range len(s) {
		all = append(all, f(opCont, s[i:i+1])...)
	}
	return append(all, f(fin|opCont, "")...)
}

// TestConformance06UTF8 is Autobahn 6: UTF-8. RFC 6455, 8.1: text that is not UTF-8 fails the
// connection with 1007. Each text is sent in one frame, in one frame an octet at a time, with an
// octet in each fragment, and in two fragments divided at every place.
func TestConformance06UTF8(t *testing.T) {
	var cases []conformCase
	add := func(name, s string, code int) {
		var want []wsFrame
		if code == 0 {
			want = []wsFrame{text(s)}
		}
		cases = append(cases,
			conformCase{name: name, send: f(fin|opText, s), want: want, code: code},
			conformCase{name: name + ", an octet at a time", send: f(fin|opText, s), chop: 1, want: want, code: code},
			conformCase{name: name + ", an octet in a fragment", send: octets(s), want: want, code: code})
		for i := 1; i < len(s) && len(s) <= 12; i++ {
			cases = append(cases, conformCase{name: fmt.Sprintf("%s, cut after %d", name, i),
				send: frames(f(opText, s[:i]), f(fin|opCont, s[i:])), want: want, code: code})
		}
	}
	for name, s := range map[string]string{
		"Autobahn's own":            "Hello-µ@ßöäüàá-UTF-8!!",
		"kosme":                     "κόσμε",
		"the first of 1 octet":      "\x00",
		"the first of 2":            "\u0080",
		"the first of 3":            "\u0800",
		"the first of 4":            "\U00010000",
		"the last of 1":             "\x7f",
		"the last of 2":             "\u07ff",
		"the last of 3":             "\uffff",
		"the last of 4":             "\U0010ffff",
		"before the surrogates":     "\ud7ff",
		"after the surrogates":      "\ue000",
		"the replacement character": "\ufffd",
		"no characters":             "\ufffe\uffff\ufdd0\U0001fffe\U0001ffff\U0010fffe",
		"a byte order mark":         "\ufeffx",
	} {
		add(name, s, 0)
	}
	for name, s := range map[string]string{
		"Autobahn's own, and a surrogate": "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
		"beyond U+10FFFF":                 "\xf4\x90\x80\x80",
		"5 octets":                        "\xf8\x88\x80\x80\x80",
		"6 octets":                        "\xfc\x84\x80\x80\x80\x80",
		"a continuation first":            "\x80",
		"the last continuation":           "\xbf",
		"continuations only":              "\x80\xbf\x80",
		"starts only":                     "\xc3 \xc3 ",
		"2 octets, one missing":           "\xdf",
		"3 octets, one missing":           "\xef\xbf",
		"3 octets, two missing":           "\xe0",
		"4 octets, one missing":           "\xf0\x90\x80",
		"one missing, then more":          "\xe2\x82x",
		"0xfe":                            "\xfe",
		"0xff":                            "\xff",
		"an overlong slash of 2":          "\xc0\xaf",
		"an overlong slash of 3":          "\xe0\x80\xaf",
		"an overlong slash of 4":          "\xf0\x80\x80\xaf",
		"the last overlong of 2":          "\xc1\xbf",
		"the last overlong of 3":          "\xe0\x9f\xbf",
		"the last overlong of 4":          "\xf0\x8f\xbf\xbf",
		"an overlong NUL":                 "\xc0\x80",
		"the first high surrogate":        "\xed\xa0\x80",
		"the last low surrogate":          "\xed\xbf\xbf",
		"a pair of surrogates":            "\xed\xa0\x80\xed\xb0\x80",
		"valid before and after":          "valid \xff valid",
	} {
		add(name, s, 1007)
		if len(s) < 20 {
			cases = append(cases, conformCase{name: name + ", as binary", send: f(fin|opBinary, s), want: []wsFrame{blob(s)}})
		}
	}
	cases = append(cases, conformCase{
		name: "deviates: a fragment that cannot become UTF-8 fails at the message's end (Autobahn 6.4: immediately)",
		send: frames(f(opText, "\xce\xba\xf4\x90\x80\x80"), f(fin|opPing, "still there"), f(fin|opCont, "x"),
			f(fin|opPing, "no more")),
		want: []wsFrame{pong("still there")}, code: 1007,
	}, conformCase{
		name: "earlier valid messages are echoed",
		send: frames(f(fin|opText, "good"), f(fin|opText, "\xff"), f(fin|opText, "never")),
		want: []wsFrame{text("good")}, code: 1007,
	})
	conform(t, websocket.Config{}, cases)
}
