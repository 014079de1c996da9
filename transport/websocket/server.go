package websocket

import (
	"cmp"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/fifo"
	"bennu.example/internal/mailbox"
	"bennu.example/transport"
	"bennu.example/transport/internal/outbox"
)

// Config configures a Server.
//
// With package socket, MaxMessage, MaxQueue, OnSlow and IdleTimeout are overrides: zero means the
// value of socket.Config. The defaults below are those of a Server that is used by itself.
type Config struct {
	// Path is the last segments of the URL's path. Empty means "/websocket". Only package socket uses
	// it.
	Path string

	// Compress accepts a client's offer of permessage-deflate. The default is off. A frame of 512
	// bytes or more is then compressed by itself, which takes 20 to 60 µs of processor time for half a
	// kilobyte to eight, once for all receivers. A client that has sent a compressed message costs 6
	// kB more, and 40 kB while it sends one.
	Compress bool

	// MaxMessage bounds a message from a client, in bytes, after decompression. Zero means
	// socket.Config.MaxMessage, or 1 MiB. A larger message ends the connection with code 1009.
	MaxMessage int64

	// MaxFragments bounds the number of frames of one message from a client. Zero means one for each
	// 64 bytes of MaxMessage: 16,384. More of them end the connection with code 1009.
	MaxFragments int

	// MaxQueue bounds the broadcasts and pushes that wait for one client, in bytes. Zero means
	// socket.Config.MaxQueue, or 1 MiB. A frame counts as its payload and 64 bytes. The batch that is
	// being written does not count: a quarter of MaxQueue but at most 64 KiB, or one frame. OnSlow
	// determines what happens beyond this bound.
	//
	// What the client's own messages cause has a second budget of this size: see transport.Delivery.
	// While more than half of it is in use, nothing is read from the client. Then it can only grow by
	// one answer for each channel whose callback runs, and for each reference that the program keeps.
	MaxQueue int

	// OnSlow is the policy for frames that have no policy of their own. It is transport.Disconnect,
	// DropOldest or DropNewest. Zero, which is transport.Inherit, means socket.Config.OnSlow, or
	// Disconnect.
	OnSlow transport.SlowPolicy

	// IdleTimeout ends a connection whose client sends nothing for this time, not even a ping, with
	// code 1002. Zero means socket.Config.IdleTimeout, or 60 s. Frames to the client do not count.
	IdleTimeout time.Duration

	// WriteTimeout ends a connection whose client reads nothing for this time while frames wait for
	// it. Zero means 30 s.
	WriteTimeout time.Duration

	// CloseTimeout bounds how long a connection that is being closed still sends what was queued
	// before. Zero means 5 s. The server half-closes TCP immediately after the close frame. It then
	// drops what the client sends, for half a second or CloseTimeout, whichever is less.
	CloseTimeout time.Duration

	// OnPanic is called with the value and the stack if Session.Closed panics. Nil means that such a
	// panic is ignored. A panic in Session.Receive ends the connection, and Closed receives it as a
	// *channel.PanicError.
	OnPanic func(value any, stack []byte)

	// OnDrop is called when Stats.Dropped, Conflated or Slow has increased. It is called under locks:
	// it must not block, and must not call the Server. Package socket sets it if its Config has Hooks.
	OnDrop func()
}

const (
	defaultMaxMessage   = 1 << 20
	defaultMaxQueue     = 1 << 20
	defaultIdleTimeout  = 60 * time.Second
	defaultWriteTimeout = 30 * time.Second
	defaultCloseTimeout = 5 * time.Second
)

// Server is the server's end of any number of WebSocket connections. Its methods may be called from
// any goroutine. It needs no Close: nothing of it is left when its connections have ended.
//
// An idle connection has no buffer. On Linux it has no goroutine either: one goroutine waits for
// the clients of all connections, and a few others read them. Elsewhere, and with TLS, a connection
// has one, with the smallest possible stack while it is idle. A few goroutines write the frames of
// all connections. They run only while frames wait, join the frames of a connection in one system
// call, and never wait for a client. A client that does not keep up gets a goroutine of its own
// until it does.
type Server struct {
	cfg        Config
	epoch      time.Time
	maxWriters int  // one for two processors: with more of them, fewer frames are joined in one write
	portable   bool // never use the descriptor, as with TLS; for tests
	noPoller   bool // as where there is none; for tests
	noFrames   bool // the library reads all frames; for tests
	drainTime  time.Duration
	deflaters  chan *deflater           // nil elements until they are needed; its size bounds the work in parallel
	deflated   func(data []byte) []byte // deflate, or nil if Compress is false

	slow    outbox.Policy
	readers mailbox.Workers // read the connections that the poller watches

	idle, tooBig, invalid, writes, wrote atomic.Uint64 // see Stats

	mu          sync.Mutex
	gone        sync.Cond // on mu: live may have become 0
	live        int       // connections, goroutines other than readers, and timers if it has any
	connections int
	writers     int
	waiting     fifo.Queue[*serverConn] // for a writer
	poller      *poller                 // nil where there is none, or no connection

	timers timers
}

// NewServer returns a server.
func NewServer(cfg Config) *Server {
	cfg.MaxMessage = cmp.Or(cfg.MaxMessage, defaultMaxMessage)
	cfg.MaxFragments = cmp.Or(cfg.MaxFragments, int(min(max(cfg.MaxMessage/64, 1), math.MaxInt32)))
	cfg.MaxQueue = cmp.Or(cfg.MaxQueue, defaultMaxQueue)
	cfg.IdleTimeout = min(cmp.Or(cfg.IdleTimeout, defaultIdleTimeout), maxTimeout)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, defaultWriteTimeout)
	cfg.CloseTimeout = min(cmp.Or(cfg.CloseTimeout, defaultCloseTimeout), maxTimeout)
	s := &Server{cfg: cfg, epoch: time.Now(), maxWriters: (runtime.GOMAXPROCS(0) + 1) / 2}
	s.drainTime = min(cfg.CloseTimeout, drainTime)
	s.readers.Poll = s.poll
	s.slow.Max, s.slow.Default, s.slow.OnDrop = cfg.MaxQueue, cfg.OnSlow, cfg.OnDrop
	s.gone.L = &s.mu
	s.timers.s, s.timers.fire = s, (*serverConn).timedOut
	if cfg.Compress {
		s.maxWriters = runtime.GOMAXPROCS(0) // they also compress
		s.deflated = s.deflate
		s.deflaters = make(chan *deflater, s.maxWriters)
		for range s.maxWriters {
			s.deflaters <- nil
		}
	}
	return s
}

// Stats are counts of a Server.
type Stats struct {
	Connections int    // open connections, and those that are ending
	Dropped     uint64 // frames dropped by DropOldest or DropNewest
	Conflated   uint64 // frames dropped by KeepLatest for a newer one of their key
	Slow        uint64 // connections that ended because the client did not keep up
	Idle        uint64 // connections that ended by IdleTimeout
	TooBig      uint64 // connections that ended because of a message beyond MaxMessage or MaxFragments
	Invalid     uint64 // connections that ended because of a protocol violation or text that is not UTF-8
	Writes      uint64 // system calls that write; without a descriptor, calls of net.Conn.Write
	Bytes       uint64 // bytes that these wrote
}

// Stats returns the counts.
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

// Wait blocks until no connection is left, and no goroutine of one. It does not close them.
func (s *Server) Wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.live > 0 {
		s.gone.Wait()
	}
	s.mu.Unlock()
	s.readers.Wait()
	s.mu.Lock()
}

// addLive counts a goroutine for which Wait waits, and the given number of connections.
func (s *Server) addLive(connections int) {
	s.mu.Lock()
	s.live++
	s.connections += connections
	s.mu.Unlock()
}

// removeLive is the opposite of addLive.
func (s *Server) removeLive(connections int) {
	s.mu.Lock()
	s.connections -= connections
	var idle *poller
	if s.connections == 0 {
		idle, s.poller = s.poller, nil
	}
	if s.live--; s.live == 0 {
		s.gone.Broadcast()
	}
	s.mu.Unlock()
	idle.stop()
}

// now returns the time since s was made.
func (s *Server) now() time.Duration { return time.Since(s.epoch) }
