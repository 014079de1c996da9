package websocket

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"bennu.example/transport"
)

// ErrNoHijacker is returned by Check and Serve if the http.ResponseWriter does not give up the
// connection. The request was answered with 501.
var ErrNoHijacker = errors.New("websocket: the http.ResponseWriter does not implement http.Hijacker: " +
	"a middleware that wraps it must add a method Unwrap() http.ResponseWriter")

// handshakeTimeout bounds how long a client may take to read the answer to its handshake.
const handshakeTimeout = 15 * time.Second

// Check answers a request with 400 if it is not a WebSocket handshake, or announces a body, and
// returns the reason. If it returns nil, it has answered nothing. Call it before anything that
// costs more, or that acts for the client.
func (s *Server) Check(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength != 0 { // otherwise net/http would read the body before it answers
		w.Header().Set("Connection", "close")
	}
	if reason := handshakeFault(r); reason != "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, reason)
		return errors.New("websocket: handshake: " + reason)
	}
	// websocket.Accept writes 101 before it finds out whether it can hijack.
	if !canHijack(w) {
		http.Error(w, "this server cannot give up its connection", http.StatusNotImplemented)
		return ErrNoHijacker
	}
	return nil
}

// Serve answers a handshake and returns. The caller must have checked everything that authorizes
// the client. A request that is not a WebSocket handshake is answered with 400. Protocol is the
// subprotocol to answer, which the client must have offered, or empty.
//
// When the client is connected, Serve calls open. A goroutine of the connection serves the session
// that open returns; nothing of the request stays in memory. An error means that open was not
// called. The request has been answered then.
func (s *Server) Serve(
	w http.ResponseWriter, r *http.Request, protocol string, open func(transport.Conn) transport.Session,
) error {
	if err := s.Check(w, r); err != nil {
		return err
	}
	// net/http removes the deadline when the connection is hijacked.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(handshakeTimeout))
	c := newServerConn(s)
	opts := websocket.AcceptOptions{
		InsecureSkipVerify: true, // the caller checked the origin
		OnPingReceived:     c.pong,
	}
	if protocol != "" {
		opts.Subprotocols = []string{protocol}
	}
	if s.cfg.Compress {
		opts.CompressionMode = websocket.CompressionNoContextTakeover
	}
	lib, err := websocket.Accept(&hijacker{w, c}, r, &opts)
	if err != nil {
		if c.nc != nil {
			c.nc.Close()
		}
		return fmt.Errorf("websocket: handshake: %w", err)
	}
	lib.SetReadLimit(s.cfg.MaxMessage)
	c.start(lib, open)
	return nil
}

// handshakeFault returns why r is not a WebSocket handshake, or "" if it is one. The text is that
// of Phoenix on Bandit (websock_adapter). The WebSocket library makes the same checks and more, but
// answers differently.
func handshakeFault(r *http.Request) string {
	absent := func(name string) string { return "'" + name + "' header is absent" }
	other := func(name, must string) string {
		return fmt.Sprintf("'%s' header must %s, got %s", name, must, inspect(r.Header.Values(name)))
	}
	switch {
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return "HTTP version " + r.Proto + " unsupported"
	case r.Method != http.MethodGet:
		return "HTTP method " + r.Method + " unsupported"
	case r.Host == "":
		return absent("host")
	case !hasToken(r.Header.Values("Connection"), "upgrade"):
		return other("connection", "contain 'upgrade'")
	case !hasToken(r.Header.Values("Upgrade"), "websocket"):
		return other("upgrade", "contain 'websocket'")
	case r.Header.Get("Sec-WebSocket-Key") == "":
		return absent("sec-websocket-key")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return other("sec-websocket-version", "equal '13'")
	case !validKey(r.Header.Values("Sec-WebSocket-Key")):
		return "'sec-websocket-key' header is invalid"
	case r.ContentLength != 0: // net/http would read the body before it gives up the connection
		return "a handshake has no body"
	}
	return ""
}

// validKey reports whether there is exactly one key, of 16 bytes.
func validKey(keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0]))
	return err == nil && len(key) == 16
}

// inspect formats the values of a header as Elixir does.
func inspect(values []string) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == 4 || len(v) > 100 {
			b.WriteString("...")
			break
		}
		fmt.Fprintf(&b, "%q", v)
	}
	b.WriteByte(']')
	return b.String()
}

// hasToken reports whether a token is in comma-separated lists, ignoring case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// canHijack reports whether http.ResponseController will find a Hijacker.
func canHijack(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// hijacker is the ResponseWriter for the WebSocket library. Its Hijack puts c between the library
// and the network.
type hijacker struct {
	http.ResponseWriter
	c *serverConn
}

// WriteHeaderNow writes the header on Gin's ResponseWriter, which delays it otherwise. The library
// calls it if it exists.
func (h *hijacker) WriteHeaderNow() {
	if w, ok := h.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		w.WriteHeaderNow()
	}
}

// The sizes of the library's buffers. It reads a few bytes of a frame's header through its buffer,
// because c reads ahead and payloads bypass the buffer. It writes nothing: see libraryConn.Write.
const (
	libraryReadBuffer  = 16
	libraryWriteBuffer = 1
)

// Hijack is part of http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	h.c.attach(nc, early, h.Header().Get("Sec-WebSocket-Extensions") != "")
	end := (*libraryConn)(h.c)
	h.c.br = bufio.NewReaderSize(end, libraryReadBuffer)
	return end, bufio.NewReadWriter(h.c.br, bufio.NewWriterSize(end, libraryWriteBuffer)), nil
}
