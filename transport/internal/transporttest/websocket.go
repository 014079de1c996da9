package transporttest

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"
)

// WebSocketHandler returns a handler that passes each accepted WebSocket to f, and drops it when f
// has returned.
func WebSocketHandler(f func(c *websocket.Conn, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"phoenix"}})
		if err != nil {
			return
		}
		c.SetReadLimit(64 << 20)
		defer c.CloseNow()
		f(c, r)
	})
}

// Echo sends every frame back. It is for WebSocketHandler.
func Echo(c *websocket.Conn, _ *http.Request) {
	for {
		typ, data, err := c.Read(context.Background())
		if err != nil || c.Write(context.Background(), typ, data) != nil {
			return
		}
	}
}

// Endpoint returns an endpoint for both transports: it accepts WebSockets, which echo, and a
// long-poll session, as LongPollServer does.
func Endpoint() http.Handler {
	lp := NewLongPollServer()
	ws := WebSocketHandler(Echo)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/longpoll") {
			lp.ServeHTTP(w, r)
		} else {
			ws.ServeHTTP(w, r)
		}
	})
}

// Hijack answers a WebSocket handshake and returns the bare connection.
func Hijack(w http.ResponseWriter, r *http.Request) io.ReadWriteCloser {
	conn, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	fmt.Fprintf(buf, "Sec-WebSocket-Accept: %s\r\n\r\n", AcceptKey(r.Header.Get("Sec-WebSocket-Key")))
	buf.Flush()
	return conn
}

// AcceptKey returns the server's answer to the key of a handshake, by RFC 6455.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
