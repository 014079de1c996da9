package main

import (
	"bytes"
	"strings"

	"bennu.example/internal/wstest"
)

// floors are the servers that show what the parts below a protocol cost. They speak a protocol of
// one letter and its argument: j joins a topic, p publishes to it, and e is echoed.
//
//   - epoll is one loop around epoll_wait, with WebSocket frames read and written by hand. It has
//     no goroutines, no timeouts and no limits.
//   - pool is a server with coder/websocket, whose frames a pool of goroutines writes in batches.
var floors = []string{"epoll", "pool"}

// letters is the protocol of the floors.
var letters = dialect{
	path:         "/",
	join:         func(topic string) []byte { return []byte("j" + topic) },
	leave:        func(topic string) []byte { return []byte("l" + topic) },
	answers:      1,
	leaveReplies: 1,
	publish: func(dst []byte, _ string, data []byte) []byte {
		return append(append(dst, 'p'), data...)
	},
	echo: func(dst []byte, _ string, data []byte) []byte {
		return append(append(dst, 'e'), data...)
	},
	delivered: func(frame []byte, f func([]byte)) { f(frame) },
}

// appendText appends a text frame of a server.
func appendText(b, payload []byte) []byte {
	return appendServerFrame(b, wstest.Fin|wstest.Text, payload)
}

func appendServerFrame(b []byte, first byte, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		b = append(b, first, byte(n))
	case n < 1<<16:
		b = append(b, first, 126, byte(n>>8), byte(n))
	default:
		b = append(b, first, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, payload...)
}

// headerValue returns the value of a header in a request.
func headerValue(request []byte, name string) string {
	for line := range bytes.Lines(request) {
		if field, value, ok := strings.Cut(string(line), ":"); ok && strings.EqualFold(field, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
