package websocket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	ws "bennu.example/transport/websocket"
)

// TestClientWSHandshake checks the request as a server receives it.
func TestClientWSHandshake(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		cfg   transport.ClientConfig
		uri   string
		proto string
		host  string
	}{
		{"plain", transport.ClientConfig{URL: "ws://server/socket"}, "/socket/websocket?vsn=2.0.0", "", "server"},
		{"http scheme", transport.ClientConfig{URL: "http://server:4000/socket/"}, "/socket/websocket?vsn=2.0.0", "", "server:4000"},
		{"params", transport.ClientConfig{URL: "ws://server/socket", Params: "a=1&b%5Bc%5D=2"}, "/socket/websocket?a=1&b%5Bc%5D=2&vsn=2.0.0", "", "server"},
		{"query and params", transport.ClientConfig{URL: "ws://server/socket?x=y&", Params: "?a=1", Vsn: "3.0.0"}, "/socket/websocket?x=y&a=1&vsn=3.0.0", "", "server"},
		{"vsn escaped", transport.ClientConfig{URL: "ws://server/socket", Vsn: "2.0.0+b c"}, "/socket/websocket?vsn=2.0.0%2Bb%20c", "", "server"},
		{"escaped path", transport.ClientConfig{URL: "ws://server/a%2Fb/s%20t#frag"}, "/a%2Fb/s%20t/websocket?vsn=2.0.0", "", "server"},
		{"root", transport.ClientConfig{URL: "ws://server"}, "/websocket?vsn=2.0.0", "", "server"},
		{"token", transport.ClientConfig{URL: "ws://server/socket", AuthToken: "1234"}, "/socket/websocket?vsn=2.0.0", "phoenix,base64url.bearer.phx.MTIzNA", "server"},
		{"token of odd bytes", transport.ClientConfig{URL: "ws://server/socket", AuthToken: "\xfb\xff>"}, "/socket/websocket?vsn=2.0.0", "phoenix,base64url.bearer.phx.+/8+", "server"},
		{"header", transport.ClientConfig{URL: "ws://server/socket", AuthToken: "1", Header: http.Header{
			"Sec-Websocket-Protocol": {"mine, other"}, "Host": {"elsewhere"}, "X-Mine": {"1"},
		}}, "/socket/websocket?vsn=2.0.0", "mine,other,phoenix,base64url.bearer.phx.MQ", "elsewhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan *http.Request, 1)
			n := transporttest.NewNet(t, transporttest.WebSocketHandler(func(c *websocket.Conn, r *http.Request) {
				got <- r
				transporttest.Echo(c, r)
			}))
			tt.cfg.HTTPClient = n.Client
			transporttest.Dial(t, ws.Dial, tt.cfg)
			r := <-got
			if r.RequestURI != tt.uri || r.Host != tt.host || r.Header.Get("Sec-WebSocket-Protocol") != tt.proto {
				t.Errorf("got %q on %q with %q, want %q on %q with %q", r.RequestURI, r.Host,
					r.Header.Get("Sec-WebSocket-Protocol"), tt.uri, tt.host, tt.proto)
			}
			if r.Header.Get("X-Mine") != tt.cfg.Header.Get("X-Mine") {
				t.Errorf("header: %v", r.Header)
			}
		})
	}
}

func TestClientBadConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]transport.ClientConfig{
		"no scheme":      {URL: "server/socket"},
		"port as scheme": {URL: "localhost:4000/socket"},
		"other scheme":   {URL: "ftp://server/socket"},
		"no host":        {URL: "ws:///socket"},
		"port only":      {URL: "ws://:80/socket"},
		"not a URL":      {URL: "ws://server:port/sec%ret"},
		"empty":          {},
		"raw params":     {URL: "ws://server/socket", Params: "a=b c"},
		"header in it":   {URL: "ws://server/socket", Params: "a=b\r\nX-Evil: 1"},
		"fragment in it": {URL: "ws://server/socket", Params: "a=b#c"},
		"raw query":      {URL: "ws://server/socket?a=ä"},
		"token":          {URL: "ws://server/socket", AuthToken: "a\nb"},
	} {
		for dialed, dial := range map[string]transporttest.Dialer{"ws": ws.Dial, "longpoll": longpoll.Dial} {
			_, err := dial(t.Context(), &cfg)
			if !errors.Is(err, transport.ErrURL) || strings.Contains(err.Error(), "sec") {
				t.Errorf("%s, %s: %v", name, dialed, err)
			}
		}
	}
}

func TestClientWSEcho(t *testing.T) {
	t.Parallel()
	n := transporttest.NewNet(t, transporttest.WebSocketHandler(transporttest.Echo))
	c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
	go func() {
		c.Write()
		c.Write(transporttest.Text(""), transporttest.Binary(""))
		c.Write(transporttest.Text("häh"))
		for _, size := range []int{3999, 4000, 4096, 65535, 65536, 1 << 20} {
			c.Write(transporttest.Binary(strings.Repeat("x", size)), transporttest.Text("after"))
			c.Write(transporttest.Text(strings.Repeat("y", size)))
		}
	}()
	transporttest.Wants(t, c, serializer.OpText, "")
	transporttest.Wants(t, c, serializer.OpBinary, "")
	transporttest.Wants(t, c, serializer.OpText, "häh")
	total := 0
	for _, size := range []int{3999, 4000, 4096, 65535, 65536, 1 << 20} {
		transporttest.Wants(t, c, serializer.OpBinary, strings.Repeat("x", size))
		transporttest.Wants(t, c, serializer.OpText, "after")
		transporttest.Wants(t, c, serializer.OpText, strings.Repeat("y", size))
		total += 2 * size
	}
	if in, out := c.Bytes(); in < uint64(total) || out < uint64(total) || in > uint64(total+1000) ||
		out > uint64(total+1000) {
		t.Errorf("bytes: %d in, %d out, want a little more than %d", in, out, total)
	}
}

// TestClientWSMessagesAreOwned checks that reading a message does not change earlier ones, which
// belong to the caller.
func TestClientWSMessagesAreOwned(t *testing.T) {
	t.Parallel()
	n := transporttest.NewNet(t, transporttest.WebSocketHandler(transporttest.Echo))
	c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
	var want, got [][]byte
	for i := range 50 {
		want = append(want, bytes.Repeat([]byte{byte('a' + i%20)}, i*i*40))
	}
	go func() {
		for _, m := range want {
			c.Write(&serializer.Frame{Op: serializer.OpBinary, Data: m})
		}
	}()
	for range want {
		_, data, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, data)
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("message %d changed after it was read", i)
		}
	}
}

func TestClientWSOneFlush(t *testing.T) {
	t.Parallel()
	n := transporttest.NewNet(t, transporttest.WebSocketHandler(transporttest.Echo))
	c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
	var frames []*serializer.Frame
	for i := range 100 {
		frames = append(frames, transporttest.Text(fmt.Sprint("message ", i)))
	}
	before := n.Writes.Load()
	go c.Write(frames...)
	for _, f := range frames {
		transporttest.Wants(t, c, f.Op, string(f.Data))
	}
	if got := n.Writes.Load() - before; got != 1 {
		t.Errorf("%d writes for %d frames, want 1", got, len(frames))
	}
}

func TestClientWSRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		body   string
		kept   int
	}{
		{"forbidden", 403, "", 0},
		{"unauthorized", 401, `{"error":"token expired"}`, 25},
		{"not there", 404, "404 page not found\n", 19},
		{"a web page", 200, "<html>log in</html>", 19},
		{"too many", 429, strings.Repeat("x", 100_000), 4096},
		{"broken", 500, strings.Repeat("y", 4097), 4096},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			_, err := ws.Dial(t.Context(), &transport.ClientConfig{URL: "ws://server/socket", Params: "secret=1", HTTPClient: n.Client})
			var refused *transport.HandshakeError
			if !errors.As(err, &refused) {
				t.Fatalf("dial: %v", err)
			}
			if refused.StatusCode != tt.status || string(refused.Body) != tt.body[:tt.kept] ||
				refused.Header.Get("Retry-After") != "7" {
				t.Errorf("%d %v %q", refused.StatusCode, refused.Header, refused.Body)
			}
			if !strings.Contains(err.Error(), fmt.Sprint(tt.status)) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// TestClientWSNotWebSocket checks invalid responses with status 101, and a response that is not
// HTTP.
func TestClientWSNotWebSocket(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"wrong accept": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Accept: x\r\n\r\n",
		"no upgrade":     "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"other protocol": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"garbage":        "\x00\x01garbage\r\n\r\n",
		"nothing":        "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, _ := w.(http.Hijacker).Hijack()
				io.WriteString(conn, answer)
				conn.Close()
			}))
			_, err := ws.Dial(t.Context(), &transport.ClientConfig{URL: "ws://server/socket", Params: "secret=1", HTTPClient: n.Client})
			if err == nil || !strings.HasPrefix(err.Error(), "transport: dial ws://server/socket/websocket: ") || strings.Contains(err.Error(), "secret") {
				t.Errorf("dial: %v", err)
			}
		})
	}
}

func TestClientWSDialContext(t *testing.T) {
	t.Parallel()
	t.Run("ends the handshake", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			n := transporttest.NewNet(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			transporttest.Within(t, time.Minute, func() {
				if _, err := ws.Dial(ctx, &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("dial: %v", err)
				}
			})
		})
	})
	t.Run("and nothing after it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			n := transporttest.NewNet(t, transporttest.WebSocketHandler(transporttest.Echo))
			ctx, cancel := context.WithCancel(t.Context())
			c, err := ws.Dial(ctx, &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(1000, "")
			cancel()
			synctest.Wait()
			go c.Write(transporttest.Text("still here"))
			transporttest.Wants(t, c, serializer.OpText, "still here")
		})
	})
}

func TestClientWSMaxMessage(t *testing.T) {
	t.Parallel()
	closed := make(chan error, 1)
	n := transporttest.NewNet(t, transporttest.WebSocketHandler(func(c *websocket.Conn, _ *http.Request) {
		c.Write(context.Background(), websocket.MessageBinary, make([]byte, 1000))
		c.Write(context.Background(), websocket.MessageBinary, make([]byte, 1001))
		_, _, err := c.Read(context.Background())
		closed <- err
	}))
	c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client, MaxMessage: 1000})
	transporttest.Wants(t, c, serializer.OpBinary, string(make([]byte, 1000)))
	transporttest.WantsCode(t, c, transport.CodeTooBig)
	if err := <-closed; websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("the server saw %v", err)
	}
}

func TestClientWSNotUTF8(t *testing.T) {
	t.Parallel()
	closed := make(chan error, 1)
	n := transporttest.NewNet(t, transporttest.WebSocketHandler(func(c *websocket.Conn, _ *http.Request) {
		c.Write(context.Background(), websocket.MessageBinary, []byte("\xff"))
		c.Write(context.Background(), websocket.MessageText, []byte("\xff"))
		_, _, err := c.Read(context.Background())
		closed <- err
	}))
	c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
	transporttest.Wants(t, c, serializer.OpBinary, "\xff")
	transporttest.WantsCode(t, c, transport.CodeBadUTF8)
	if err := <-closed; websocket.CloseStatus(err) != websocket.StatusInvalidFramePayloadData {
		t.Errorf("the server saw %v", err)
	}
}

// TestClientWSGarbage checks that frames that no WebSocket server sends end the connection, and
// nothing else.
func TestClientWSGarbage(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]string{
		"reserved bits":      "\xf1\x01x",
		"unknown opcode":     "\x83\x01x",
		"lone continuation":  "\x80\x01x",
		"unfinished message": "\x01\x01x\x81\x01y",
		"long control":       "\x89\x7e\x00\xff" + strings.Repeat("p", 255),
		"split control":      "\x09\x01p",
		"bad close code":     "\x88\x02\x03\xed",
		"short close":        "\x88\x01\x03",
		"negative length":    "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
		"huge length":        "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff" + strings.Repeat("x", 100_000),
		"http":               "HTTP/1.1 400 Bad Request\r\n\r\n",
		"half a frame":       "\x82\x05xx",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn := transporttest.Hijack(w, r)
					go io.Copy(io.Discard, conn)
					io.WriteString(conn, bytes)
					time.Sleep(time.Second)
					conn.Close()
				}))
				c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client, MaxMessage: 50_000})
				transporttest.Within(t, 10*time.Second, func() { t.Log(transporttest.WantsEnd(t, c)) })
				transporttest.Within(t, 2*time.Second, func() { c.Close(1000, "") })
			})
		})
	}
}

// TestClientWSConcurrent is for the race detector: writers, a reader, counters, and a server that
// pings and echoes run at once.
func TestClientWSConcurrent(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(transporttest.WebSocketHandler(func(c *websocket.Conn, r *http.Request) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for c.Ping(context.Background()) == nil {
			}
		}()
		transporttest.Echo(c, r)
		c.CloseNow()
		<-done
	}))
	t.Cleanup(s.Close)
	c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{URL: s.URL})
	const writers, each = 8, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := c.Write(transporttest.Text(fmt.Sprint(w, " ", 2*i)),
					transporttest.Binary(fmt.Sprint(w, " ", 2*i+1))); err != nil {
					t.Error(err)
					return
				}
				c.Bytes()
			}
		})
	}
	var next [writers]int
	for range 2 * writers * each {
		_, data, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		var w, i int
		fmt.Sscan(string(data), &w, &i)
		if i != next[w] {
			t.Fatalf("writer %d: got %d, want %d", w, i, next[w])
		}
		next[w]++
	}
	wg.Wait()
}
