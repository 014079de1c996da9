// Package websocket carries frames over WebSockets, at either end.
//
// A [Server] upgrades requests and drives one transport.Session for each connection. [Dial] opens a client's connection.
// Files that begin with server_ belong to the server's end, client_ to the client's.
package websocket

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"bennu.example/transport"
	"bennu.example/transport/internal/outbox"
)

// ErrNoHijacker is returned by Check and Serve for a request that was answered with 501, because its
// http.ResponseWriter does not give up the connection. A middleware's writer needs an Unwrap method.
var ErrNoHijacker = errors.New("handshake: http.ResponseWriter does not implement http.Hijacker")

// WebSocketConfig is how a server carries WebSockets. Zero values mean the defaults.
type Config struct {
	// Path is the last segments of the URL's path, "/websocket" by default. Package socket uses it.
	Path string

	// Compress answers a client's offer of permessage-deflate. It is off by default. A frame of 512 bytes or more is then deflated
	// by itself, which takes 20 to 60 µs of a processor for half a kilobyte to eight, once however many clients it goes to. Each
	// client that ever sent something deflated costs 4 kB more, and 40 kB while it does.
	Compress bool

	// MaxMessage is the largest message taken from a client, in bytes, after inflating; a larger one ends the connection with code
	// 1009. 0 is 1 MiB.
	MaxMessage int64

	// MaxFragments is how many frames a client's message may be cut into; more end the connection with code 1009. 0 is one for each 64
	// bytes of MaxMessage: 16,384.
	MaxFragments int

	// MaxQueue is how many bytes may wait for one client, counting 64 for each frame besides its payload, and not counting what is
	// being written: a quarter of MaxQueue but at most 64 KiB, or one frame. 0 is 1 MiB. OnSlow is what happens when there would be
	// more. What the client's own messages cause has a budget of the same size besides, see Delivery: above half of it the client is not
	// read, so that no more comes than one answer for each channel whose callback runs then and for each reference kept for later.
	MaxQueue int
	OnSlow   transport.SlowPolicy

	// IdleTimeout ends a connection, with code 1002, whose client sent nothing for so long, not even a ping; 0 is 60 s. What is
	// sent to the client does not count.
	IdleTimeout time.Duration

	// WriteTimeout ends a connection whose client took nothing for so long while something waited for it; 0 is 30 s.
	WriteTimeout time.Duration

	// CloseTimeout bounds how long a connection that is being closed goes on sending what was queued
	// before. Zero means 5 s. TCP is half-closed right behind the close frame. What the client still
	// sends is then dropped for at most half a second, or CloseTimeout if that is shorter.
	CloseTimeout time.Duration

	// OnPanic is called when Session.Closed panics, with the value and the stack. Nil: the panic goes unnoticed. A panic in
	// Session.Receive ends the connection, and Closed gets it as a *channel.PanicError.
	OnPanic func(value any, stack []byte)
}

const (
	defaultMaxMessage   = 1 << 20
	defaultMaxQueue     = 1 << 20
	defaultIdleTimeout  = 60 * time.Second
	defaultWriteTimeout = 30 * time.Second
	defaultCloseTimeout = 5 * time.Second

	// handshakeTimeout is how long a client may take to read the answer to its handshake.
	handshakeTimeout = 15 * time.Second
)

// WebSocket is the server's end of any number of WebSocket connections. Its methods may be called from any goroutine.
//
// An idle connection costs one goroutine with the smallest stack there is, and no buffer. What is sent to connections is written by
// a few goroutines, which live only while something waits, and which join the frames that wait for a connection in one system call; they
// never wait for a client. A client that does not keep up gets a goroutine of its own until it does.
type Server struct {
	cfg        Config
	epoch      time.Time
	maxWriters int  // one for two processors: with more of them, fewer frames come together in one write
	portable   bool // never use the descriptor, as with TLS; for tests
	drainTime  time.Duration
	deflaters  chan *deflater           // as many as may work at once, nil until needed
	deflated   func(data []byte) []byte // with one of them

	slow outbox.Policy

	idle, tooBig, invalid, writes, wrote atomic.Uint64 // see WebSocketStats

	mu          sync.Mutex
	gone        sync.Cond // on mu: live may have become 0
	live        int       // connections, and the goroutines that write to them
	connections int
	writers     int
	first, last *serverConn // those that wait for a writer, linked by next
}

// NewWebSocket makes the server's end. It needs no closing: when its connections have ended, nothing of it is left.
func NewServer(cfg Config) *Server {
	cfg.MaxMessage = cmp.Or(cfg.MaxMessage, defaultMaxMessage)
	cfg.MaxFragments = cmp.Or(cfg.MaxFragments, int(min(max(cfg.MaxMessage/64, 1), math.MaxInt32)))
	cfg.MaxQueue = cmp.Or(cfg.MaxQueue, defaultMaxQueue)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, defaultIdleTimeout)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, defaultWriteTimeout)
	cfg.CloseTimeout = cmp.Or(cfg.CloseTimeout, defaultCloseTimeout)
	s := &Server{cfg: cfg, epoch: time.Now(), maxWriters: (runtime.GOMAXPROCS(0) + 1) / 2}
	s.drainTime = min(cfg.CloseTimeout, drainTime)
	s.slow.Max, s.slow.Default = cfg.MaxQueue, cfg.OnSlow
	s.gone.L = &s.mu
	if cfg.Compress {
		s.maxWriters = runtime.GOMAXPROCS(0) // they do more than write
		s.deflated = s.deflate
		s.deflaters = make(chan *deflater, s.maxWriters)
		for range s.maxWriters {
			s.deflaters <- nil
		}
	}
	return s
}

// WebSocketStats are counts of a server's end.
type Stats struct {
	Connections int    // that are open, or have not ended yet
	Dropped     uint64 // frames, by policy DropOldest or DropNewest
	Conflated   uint64 // frames, by policy KeepLatest: dropped for a newer one of their key
	Slow        uint64 // connections that ended because the client did not keep up
	Idle        uint64 // because it sent nothing for IdleTimeout
	TooBig      uint64 // because of a message beyond MaxMessage or MaxFragments
	Invalid     uint64 // because it sent what is no WebSocket, or no UTF-8
	Writes      uint64 // system calls to write, or without a descriptor calls of net.Conn.Write
	Bytes       uint64 // that these wrote
}

// Stats counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Connections: s.connections,
		Dropped:     s.slow.Dropped.Load(),
		Conflated:   s.slow.Conflated.Load(),
		Slow:        s.slow.Ended.Load(),
		Idle:        s.idle.Load(),
		TooBig:      s.tooBig.Load(),
		Invalid:     s.invalid.Load(),
		Writes:      s.writes.Load(),
		Bytes:       s.wrote.Load(),
	}
}

// Wait returns when no connection is left, nor any goroutine of one. It closes none itself.
func (s *Server) Wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.live > 0 {
		s.gone.Wait()
	}
}

// began counts a connection or a goroutine that Wait is to wait for.
func (s *Server) began(connections int) {
	s.mu.Lock()
	s.live++
	s.connections += connections
	s.mu.Unlock()
}

func (s *Server) ended(connections int) {
	s.mu.Lock()
	s.connections -= connections
	if s.live--; s.live == 0 {
		s.gone.Broadcast()
	}
	s.mu.Unlock()
}

// now is the time since s was made. It is never 0 for long.
func (s *Server) now() time.Duration { return time.Since(s.epoch) }

// Check answers a request that is not a WebSocket handshake, or that announces a body, with 400, and returns why. If
// it returns nil it has answered nothing. Call it before anything that costs more, or that acts for the client.
func (s *Server) Check(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength != 0 { // or net/http would wait for the body before it answers
		w.Header().Set("Connection", "close")
	}
	if reason := notHandshake(r); reason != "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, reason)
		return errors.New("handshake: " + reason)
	}
	// Accept says 101 before it finds out whether it can keep the promise.
	if !canHijack(w) {
		http.Error(w, "this server cannot give up its connection", http.StatusNotImplemented)
		return ErrNoHijacker
	}
	return nil
}

// Serve answers the handshake and returns. The caller has checked all that makes a client welcome; what makes the request no WebSocket
// handshake is answered here, with 400. Protocol is the subprotocol to echo, one that the client offered, or "". Once the client is told
// that it is connected, open is called, and the session that it returns is served by a goroutine of the connection's own: nothing of
// the request stays in memory for its sake. An error means that open was not called.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, protocol string, open func(transport.Conn) transport.Session) error {
	if err := s.Check(w, r); err != nil {
		return err
	}
	// net/http takes it back when the connection is hijacked.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(handshakeTimeout))
	c := newServerConn(s)
	opts := websocket.AcceptOptions{
		InsecureSkipVerify: true, // the caller checked
		OnPingReceived:     c.ping,
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
		return fmt.Errorf("handshake: %w", err)
	}
	lib.SetReadLimit(s.cfg.MaxMessage)
	c.start(lib, open)
	return nil
}

// notHandshake says in Phoenix's words why r is no WebSocket handshake, "" if it is one. (Phoenix on Bandit, that is: websock_adapter.) The
// library checks the same and more, but answers otherwise.
func notHandshake(r *http.Request) string {
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
	case r.ContentLength != 0: // net/http would wait for it before it gives the connection up
		return "a handshake has no body"
	}
	return ""
}

// validKey reports whether there is one key, of 16 bytes.
func validKey(keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0]))
	return err == nil && len(key) == 16
}

// inspect writes a header's values as Elixir does.
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

// hijacker is the ResponseWriter that the library gets. Its Hijack puts c between the library and the network.
type hijacker struct {
	http.ResponseWriter
	c *serverConn
}

// WriteHeaderNow is what Gin's ResponseWriter needs, since it keeps the status back. The library knows of it.
func (h *hijacker) WriteHeaderNow() {
	if w, ok := h.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		w.WriteHeaderNow()
	}
}

// What the library needs to read: a few bytes of a frame's head, since c reads ahead and a payload goes past this buffer. What it needs to write:
// nothing, see libraryConn.Write.
const (
	libraryReadBuffer  = 16
	libraryWriteBuffer = 1
)

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
