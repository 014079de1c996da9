package channeltest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/console"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

const (
	defaultTimeout = 10 * time.Second
	defaultQuiet   = 100 * time.Millisecond
)

// grantHeader identifies the client of a ConnectAs.
const grantHeader = "Channeltest-Grant"

// Server serves a handler in memory, until the test ends. Start makes it. Only the goroutine of the
// test may change its fields.
type Server struct {
	// URL is the address of the socket. A client reaches it by Network.HTTPClient.
	URL string
	// Mux serves everything below the host of URL. The socket is mounted already. A test may mount
	// more, such as the HTTP handlers that broadcast.
	Mux *http.ServeMux
	// Network is the network of all clients.
	Network *Network

	// Timeout bounds the wait for what a test expects. Zero means 10 s. In a bubble it is virtual
	// time.
	Timeout time.Duration
	// Quiet is how long a Refute waits. Zero means 100 ms. In a bubble it is virtual time.
	Quiet time.Duration
	// AllowCrashes is for tests of callbacks that crash. Otherwise, a callback that panics or
	// returns an unexpected error fails the test at its end, even if the client does not notice.
	AllowCrashes bool

	tb     testing.TB
	log    *testLog
	cfg    socket.Config
	listen *listener

	mu       sync.Mutex
	handler  *socket.Handler
	crashes  uint64 // of handlers before
	requests int    // HTTP requests that are handled; http.Server does not count WebSockets
	over     bool   // no request is accepted any more
	idle     chan struct{}
	clients  []*Client
	grants   map[string]socket.Grant
	served   *served
}

// Start serves a handler with this configuration until the test ends. In a synctest bubble, call it
// in the bubble.
//
// If the Logger is nil, warnings and errors go to the log of the test. If Drain is zero, a shutdown
// does not wait for clients to move. If the PubSub has an adapter, Start waits until it is
// connected: see [pubsubtest.Start].
//
// [pubsubtest.Start]: https://pkg.go.dev/bennu.example/pubsub/pubsubtest#Start
func Start(tb testing.TB, cfg socket.Config) *Server {
	tb.Helper()
	s := &Server{
		URL: "http://server.test/socket", Mux: http.NewServeMux(), tb: tb, log: newTestLog(tb), cfg: cfg,
		listen: newListener(), grants: make(map[string]socket.Grant), served: newServed(),
	}
	s.Network = newNetwork(s.listen)
	if s.cfg.Logger == nil {
		s.cfg.Logger = s.log.logger("server")
	}
	if s.cfg.PubSub == nil {
		s.cfg.PubSub = pubsub.New(nil) // a Restart keeps the subscriptions of the test
	}
	if s.cfg.Drain == (socket.Drain{}) {
		s.cfg.Drain = socket.Drain{Notice: -1, Spread: -1}
	}
	s.cfg.Channels = make(channel.Routes, len(cfg.Channels))
	for pattern, h := range cfg.Channels {
		if h != nil { // NewHandler reports it
			h = channelhost.Observe(h, s.served.joined, s.served.terminated).(*channel.Handler)
		}
		s.cfg.Channels[pattern] = h
	}
	s.acceptGrants()
	s.awaitNodes(tb)
	s.handler = socket.NewHandler(s.cfg)
	s.Mux.HandleFunc("/socket/", func(w http.ResponseWriter, r *http.Request) { s.Handler().ServeHTTP(w, r) })

	server := &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(s.listen) // returns when the cleanup closes it
	}()
	tb.Cleanup(func() {
		s.end(tb)
		_ = server.Close()
		<-ended
		s.Network.close()
		s.Network.Cut()
		s.awaitRequests()
		s.log.end()
	})
	return s
}

// awaitNodes waits until the PubSub is connected to the other nodes.
func (s *Server) awaitNodes(tb testing.TB) {
	tb.Helper()
	ctx, cancel := s.within()
	defer cancel()
	for !s.cfg.PubSub.Health().Connected {
		select {
		case <-time.After(time.Millisecond): // nothing signals it
		case <-ctx.Done():
			tb.Fatalf("channeltest: the PubSub is not connected after %v: is its Run called? (%v)", s.timeout(),
				s.cfg.PubSub.Health().Err)
		}
	}
}

// serve handles a request, unless the test is over.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	over := s.over
	if !over {
		s.requests++
	}
	s.mu.Unlock()
	if over {
		return
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.requests--; s.requests == 0 && s.over {
			close(s.idle)
		}
	}()
	s.Mux.ServeHTTP(w, r)
}

// awaitRequests waits until no request is handled, and prevents new ones.
func (s *Server) awaitRequests() {
	s.mu.Lock()
	s.over, s.idle = true, make(chan struct{})
	if s.requests == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	<-s.idle
}

// end ends the clients and the handler.
func (s *Server) end(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	clients, h := s.clients, s.handler
	s.mu.Unlock()
	for _, c := range clients {
		c.Network.Restore()
	}
	s.Network.Restore()
	for _, c := range clients {
		c.end(tb)
	}
	s.shutdown(tb, h)
	if n := s.crashes; n > 0 && !s.AllowCrashes {
		tb.Errorf("channeltest: %d callback(s) crashed: see the log above (Server.AllowCrashes allows it)", n)
	}
}

func (s *Server) shutdown(tb testing.TB, h *socket.Handler) {
	tb.Helper()
	ctx, cancel := s.ending()
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		tb.Errorf("channeltest: %d socket(s) have not ended, a callback may still run: %v", h.Stats().Sockets, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crashes += h.Stats().Crashes
}

// within returns a context that ends after Timeout.
func (s *Server) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), s.timeout())
}

// ending returns a context for the end of something, which a short Timeout does not affect.
func (s *Server) ending() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), max(s.timeout(), defaultTimeout))
}

func (s *Server) timeout() time.Duration {
	if s.Timeout == 0 {
		return defaultTimeout
	}
	return s.Timeout
}

func (s *Server) quiet() time.Duration {
	if s.Quiet == 0 {
		return defaultQuiet
	}
	return s.Quiet
}

// Handler returns the handler, for example for Kick, Revoke and Stats. After Restart it is another
// one.
func (s *Server) Handler() *socket.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handler
}

// PubSub returns the PubSub of the handler.
func (s *Server) PubSub() *pubsub.PubSub { return s.Handler().PubSub() }

// Restart shuts the handler down and serves a new one with the same configuration, as a new process
// does. Nothing is kept but what the configuration refers to, such as a PubSub. The clients come
// back by themselves; [Client.Reconnect] waits for it.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.Network.set(func() { s.Network.restarting = true })
	s.shutdown(tb, s.Handler())
	s.mu.Lock()
	s.handler = socket.NewHandler(s.cfg)
	clients := s.clients
	s.mu.Unlock()
	for _, c := range clients {
		c.awaitLoss(tb)
	}
	s.Network.set(func() { s.Network.restarting = false })
}

// Broadcast broadcasts an event to the subscribers of a topic, as [pubsub.PubSub.Broadcast] does.
func (s *Server) Broadcast(tb testing.TB, topic, event string, payload any) {
	tb.Helper()
	ctx, cancel := s.within()
	defer cancel()
	if err := s.PubSub().Broadcast(ctx, topic, event, payload); err != nil {
		tb.Fatalf("channeltest: %v", err)
	}
}

// Subscribe returns an Inbox that receives the broadcasts of a topic, whoever broadcasts them,
// until the test ends.
func (s *Server) Subscribe(tb testing.TB, topic string) *Inbox {
	tb.Helper()
	in := newInbox(s, fmt.Sprintf("broadcasts of %q", topic))
	sub := s.PubSub().Subscribe(topic, subscriber{in})
	tb.Cleanup(sub.Cancel)
	return in
}

// subscriber is the pubsub.Subscriber of an Inbox.
type subscriber struct{ in *Inbox }

// Deliver is part of pubsub.Subscriber.
func (s subscriber) Deliver(b *pubsub.Broadcast) error {
	s.in.add(event{b.Event, b.Payload})
	return nil
}

// Connect connects a client. Nil means a client with the default configuration. The kit sets
// HTTPClient, which must be nil. Unless they are set, it also sets a ClientID, the Logger, and
// delays before the client reconnects and rejoins that are shorter than usual, 10 ms at first.
func (s *Server) Connect(tb testing.TB, cfg *socket.ClientConfig) *Client {
	tb.Helper()
	c := s.newClient(tb, cfg)
	c.connect(tb)
	return c
}

// ConnectAs connects a client that has this grant, without calling Verify and Connect of the
// configuration. It is for tests that do not test the authentication. Without socket.Config.Auth,
// only ID and Context of the grant have an effect.
func (s *Server) ConnectAs(tb testing.TB, g socket.Grant) *Client {
	tb.Helper()
	s.mu.Lock()
	id := fmt.Sprintf("channeltest-%d", len(s.grants)+1)
	s.grants[id] = g
	s.mu.Unlock()
	cfg := &socket.ClientConfig{Header: http.Header{grantHeader: {id}}}
	if s.cfg.Auth != nil {
		cfg.AuthToken = id
	}
	return s.Connect(tb, cfg)
}

// ExpectRefused tries to connect, and returns the error, which is a *transport.HandshakeError if
// the server refused the client. The test fails if the server accepts it.
func (s *Server) ExpectRefused(tb testing.TB, cfg *socket.ClientConfig) error {
	tb.Helper()
	c := s.newClient(tb, cfg)
	ctx, cancel := s.within()
	defer cancel()
	client, err := socket.Dial(ctx, s.URL, &c.cfg)
	if err == nil {
		c.Socket = client
		tb.Fatalf("channeltest: the server accepted %s, want it to be refused", c)
	}
	return err
}

// Join connects a client with the default configuration and joins a topic: see [Client.Join].
func (s *Server) Join(tb testing.TB, topic string, params any) *Channel {
	tb.Helper()
	return s.Connect(tb, nil).Join(tb, topic, params)
}

// acceptGrants makes the configuration accept the clients of ConnectAs.
func (s *Server) acceptGrants() {
	connect := s.cfg.Connect
	s.cfg.Connect = func(ctx context.Context, r *socket.Request) (context.Context, error) {
		g, ok := s.grant(r.HTTP.Header.Get(grantHeader))
		switch {
		case ok && s.cfg.Auth != nil: // Verify has returned the grant
			return ctx, nil
		case ok:
			r.ID = g.ID
			return g.Context, nil
		case connect == nil:
			return ctx, nil
		}
		return connect(ctx, r)
	}
	if s.cfg.Auth == nil {
		return
	}
	auth := *s.cfg.Auth
	verify := auth.Verify
	if verify != nil { // NewHandler reports it
		auth.Verify = func(ctx context.Context, token string, r *socket.Request) (socket.Grant, error) {
			if g, ok := s.grant(token); ok {
				return g, nil
			}
			return verify(ctx, token, r)
		}
	}
	s.cfg.Auth = &auth
}

// grant returns the grant of a client of ConnectAs.
func (s *Server) grant(id string) (g socket.Grant, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok = s.grants[id]
	return g, ok
}

// maxServed is how many channels are kept before those that have ended are forgotten.
const maxServed = 10_000

// served knows the server's channels.
type served struct {
	signal
	channels []*servedChannel // guarded by the signal
}

// servedChannel is one of the server's channels, from its join to its end.
type servedChannel struct {
	channel       *channel.Channel
	client, topic string
	reason        error // given to Terminate
	ended         bool
	expected      bool // by ExpectEnd
}

func newServed() *served { return &served{signal: newSignal()} }

// joined is called when a join callback has accepted the client.
func (s *served) joined(of any) {
	c := of.(*channel.Channel)
	info, _ := socket.InfoFrom(c.Context())
	k := &servedChannel{channel: c, client: info.ClientID, topic: c.Topic()}
	s.update(func() {
		if len(s.channels) >= maxServed {
			s.channels = slices.DeleteFunc(s.channels, func(k *servedChannel) bool { return k.ended })
		}
		s.channels = append(s.channels, k)
	})
	c.OnEnd(func() { s.update(func() { k.ended = true }) })
}

// terminated is called when the Terminate callback is called.
func (s *served) terminated(of any, reason error) {
	s.update(func() {
		for _, k := range s.channels {
			if k.channel == of.(*channel.Channel) {
				k.reason = reason
			}
		}
	})
}

// of returns the channels of a client that match. The caller holds the signal's lock.
func (s *served) of(client string, match func(*servedChannel) bool) (list []*servedChannel) {
	for _, k := range s.channels {
		if k.client == client && match(k) {
			list = append(list, k)
		}
	}
	return list
}

// signal guards values that goroutines wait for.
type signal struct {
	mu      *sync.Mutex
	changed *chan struct{} // closed and replaced with every change
}

func newSignal() signal {
	ch := make(chan struct{})
	return signal{new(sync.Mutex), &ch}
}

// update changes the values.
func (s signal) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(*s.changed)
	*s.changed = make(chan struct{})
}

// await waits until ok returns true. It calls ok under the lock.
func (s signal) await(ctx context.Context, ok func() bool) error {
	for {
		s.mu.Lock()
		done, changed := ok(), *s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// testLog writes log lines to the log of a test until the test ends.
type testLog struct {
	mu    sync.Mutex
	tb    testing.TB
	ended bool
}

func newTestLog(tb testing.TB) *testLog { return &testLog{tb: tb} }

// Write is part of io.Writer.
func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return len(p), nil
	}
	return l.tb.Output().Write(p)
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// logger returns a logger of warnings and errors.
func (l *testLog) logger(name string) *zerolog.Logger {
	z := zerolog.New(console.Writer(l, time.TimeOnly)).
		Level(zerolog.WarnLevel).With().Timestamp().Str("of", name).Logger()
	return &z
}
