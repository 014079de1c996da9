package transport_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"bennu.example/internal/urlparams"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	ws "bennu.example/transport/websocket"
)

// clientBenchConn dials a server over a real socket.
func clientBenchConn(b *testing.B, h http.Handler, dial transporttest.Dialer) transport.ClientConn {
	b.Helper()
	s := httptest.NewServer(h)
	b.Cleanup(s.Close)
	return transporttest.Dial(b, dial, transport.ClientConfig{URL: s.URL + "/socket"})
}

// clientDiscard is an endpoint that reads bytes and drops them, without allocations of its own.
var clientDiscard = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	conn := transporttest.Hijack(w, r)
	io.Copy(io.Discard, conn)
	conn.Close()
})

// clientFlood returns an endpoint that sends one frame without end, many in each write.
func clientFlood(frame string) http.Handler {
	many := []byte(strings.Repeat(frame, 64<<10/len(frame)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := transporttest.Hijack(w, r)
		defer conn.Close()
		for {
			if _, err := conn.Write(many); err != nil {
				return
			}
		}
	})
}

func BenchmarkClientWSWrite(b *testing.B) {
	f := transporttest.Text(`["1","2","room:lobby","new_msg",{"body":"` + strings.Repeat("x", 80) + `"}]`)
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprint(n, " in a flush"), func(b *testing.B) {
			c := clientBenchConn(b, clientDiscard, ws.Dial)
			frames := make([]*serializer.Frame, n)
			for i := range frames {
				frames[i] = f
			}
			b.ReportAllocs()
			for i := 0; i < b.N; i += n {
				if err := c.Write(frames...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkClientWSRead(b *testing.B) {
	for _, size := range []int{125, 1000, 60_000} {
		b.Run(fmt.Sprint(size, " bytes"), func(b *testing.B) {
			frame := "\x81" + string(rune(size)) + strings.Repeat("x", size)
			if size > 125 {
				frame = "\x81\x7e" + string([]byte{byte(size >> 8), byte(size)}) + strings.Repeat("x", size)
			}
			c := clientBenchConn(b, clientFlood(frame), ws.Dial)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, data, err := c.Read(); err != nil || len(data) != size {
					b.Fatal(len(data), err)
				}
			}
		})
	}
}

func BenchmarkClientWSRoundTrip(b *testing.B) {
	c := clientBenchConn(b, transporttest.WebSocketHandler(func(c *websocket.Conn, _ *http.Request) {
		buf := make([]byte, 1000)
		for {
			typ, r, err := c.Reader(context.Background())
			if err != nil {
				return
			}
			n, _ := io.ReadFull(r, buf)
			if c.Write(context.Background(), typ, buf[:n]) != nil {
				return
			}
		}
	}), ws.Dial)
	f := transporttest.Text(strings.Repeat("x", 125))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Write(f); err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Read(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkClientLPRead measures one message, including the server's part.
func BenchmarkClientLPRead(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n, " in an answer"), func(b *testing.B) {
			const message = `[null,null,\"room:lobby\",\"new_msg\",{\"body\":\"hello\"}]`
			answer := `{"status":200,"token":"T","messages":["` + strings.Repeat(message+`","`, n-1) + `[]"]}`
			c := clientBenchConn(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Phoenix-Longpoll-Token") == "" {
					transporttest.Answer(w, 410, "T")
					return
				}
				io.WriteString(w, answer)
			}), longpoll.Dial)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := c.Read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkClientLPWrite(b *testing.B) {
	c := clientBenchConn(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, `{"status":200}`)
		} else if r.Header.Get("X-Phoenix-Longpoll-Token") == "" {
			transporttest.Answer(w, 410, "T")
		} else {
			<-r.Context().Done()
		}
	}), longpoll.Dial)
	f := transporttest.Text(`["1","2","room:lobby","new_msg",{"body":"` + strings.Repeat("x", 80) + `"}]`)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Write(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeParams(b *testing.B) {
	v := map[string]any{"token": "abc", "user": map[string]any{"id": 7, "tags": []string{"a", "b c"}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := urlparams.Encode(v); err != nil {
			b.Fatal(err)
		}
	}
}
