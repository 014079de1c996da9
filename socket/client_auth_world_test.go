package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// authWorld is a server with Config.Auth, in memory and in virtual time. Its tokens are "USER
// NUMBER EXPIRY", and it has the channels room:* (recorded), plain:*, open:*, which stay after a
// logout, and members:*.
type authWorld struct {
	t       *testing.T
	ps      *pubsub.PubSub
	h       *socket.Handler
	server  *http.Server
	pipes   *pipeListener
	served  chan struct{}
	clients *http.Transport
	life    time.Duration // of new tokens

	mu       sync.Mutex
	conns    []net.Conn // the clients' ends
	issued   int
	verified int
	verify   func(ctx context.Context) error // called for each token, if not nil
	banned   map[string]push.Reason
	dials    int
	// intruders counts the joins of members:* by anonymous clients.
	intruders int
}

func newAuthWorld(t *testing.T, life time.Duration, change func(*socket.Config)) *authWorld {
	t.Helper()
	w := &authWorld{
		t: t, life: life, served: make(chan struct{}), banned: make(map[string]push.Reason),
		pipes: &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})},
	}
	w.clients = &http.Transport{DialContext: w.dial}
	w.ps = pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}),
		history.Rules{"room:*": {Count: 10_000, Bytes: 10 << 20, Age: 1000 * time.Hour}})
	logger := zerolog.Nop()
	cfg := socket.Config{
		PubSub: w.ps, Logger: &logger, Auth: &socket.Auth{Verify: w.check},
		Channels: channel.Routes{"room:*": w.room(false), "plain:*": w.room(false), "members:*": w.room(true),
			"open:*": w.room(false, channel.Reauthorize(stays))},
	}
	if change != nil {
		change(&cfg)
	}
	w.h = socket.NewHandler(cfg)
	w.server = &http.Server{Handler: w.h, ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(w.served)
		_ = w.server.Serve(w.pipes)
	}()
	return w
}

func stays(*nobody, context.Context, *channel.Channel) error { return nil }

// room returns a channel that replies to "who" with the user, and to "login" and "logout" by
// changing it. If it is for members, anonymous clients cannot join.
func (w *authWorld) room(members bool, more ...channel.Option[nobody]) *channel.Handler {
	join := func(_ *nobody, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		g, ok := socket.GrantFrom(ctx)
		if members && !ok {
			w.set(func() { w.intruders++ })
			return nil, push.Reason("members only")
		}
		return map[string]string{"who": g.ID}, nil
	}
	return channel.Define(join, append(more,
		onEvent("who", func(ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			g, _ := socket.GrantFrom(ctx)
			return push.OK(g.ID), nil
		}),
		onEvent("login", func(ctx context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			var g socket.Grant
			if err := p.Decode(&g.ID); err != nil {
				return push.NoReply, err
			}
			if g.ID != "" {
				g.Token = w.issue(g.ID)
				g.Expires = time.Now().Add(w.life)
			}
			return push.OK(nil), socket.Authenticate(ctx, g)
		}))...)
}

// issue returns a new token of a user.
func (w *authWorld) issue(user string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.issued++
	return fmt.Sprint(user, " ", w.issued, " ", time.Now().Add(w.life).UnixNano())
}

func (w *authWorld) check(ctx context.Context, token string, _ *socket.Request) (socket.Grant, error) {
	f := strings.Fields(token)
	if len(f) != 3 {
		return socket.Grant{}, errors.New("malformed token")
	}
	at, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return socket.Grant{}, err
	}
	w.mu.Lock()
	w.verified++
	verify, reason := w.verify, w.banned[f[0]]
	w.mu.Unlock()
	if verify != nil {
		if err := verify(ctx); err != nil {
			return socket.Grant{}, err
		}
	}
	if reason != "" {
		return socket.Grant{}, &socket.Refusal{Final: true, Body: string(reason)}
	}
	expires := time.Unix(0, at)
	if !time.Now().Before(expires) {
		return socket.Grant{}, push.Reason("expired token")
	}
	return socket.Grant{ID: f[0], Expires: expires, Claims: map[string]string{"user": f[0], "number": f[1]}}, nil
}

func (w *authWorld) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *authWorld) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := w.pipes.dial(ctx)
	if err == nil {
		w.set(func() {
			w.conns = append(w.conns, conn)
			w.dials++
		})
	}
	return conn, err
}

// cut breaks all connections.
func (w *authWorld) cut() {
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// client returns a client that is not connected, and what it showed.
func (w *authWorld) client(cfg socket.ClientConfig) *authClient {
	logger := zerolog.Nop()
	cfg.Logger, cfg.HTTPClient = &logger, &http.Client{Transport: w.clients}
	c := &authClient{t: w.t, Client: socket.NewClient("http://service/socket", &cfg)}
	c.OnAuth(func(s socket.AuthState) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen = append(c.seen, s)
	})
	return c
}

// end closes the server. The clients must be closed before.
func (w *authWorld) end() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(w.h.Shutdown(ctx), w.server.Shutdown(ctx)); err != nil {
		w.t.Error(err)
	}
	<-w.served
	w.clients.CloseIdleConnections()
}

// authClient is a client of an authWorld.
type authClient struct {
	*socket.Client
	t    *testing.T
	mu   sync.Mutex
	seen []socket.AuthState
}

func (c *authClient) end() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		c.t.Errorf("close: %v", err)
	}
}

// statuses returns the statuses so far, each once for successive states.
func (c *authClient) statuses() (list []socket.AuthStatus) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.seen {
		if len(list) == 0 || list[len(list)-1] != s.Status {
			list = append(list, s.Status)
		}
	}
	c.seen = nil
	return list
}

func (c *authClient) wantStatuses(want ...socket.AuthStatus) {
	c.t.Helper()
	if got := c.statuses(); fmt.Sprint(got) != fmt.Sprint(want) {
		c.t.Errorf("%v, want %v; %+v, %v", got, want, c.Auth(), c.State())
	}
}

// who pushes "who" and compares the user.
func (c *authClient) who(room *channel.Client, want string) {
	c.t.Helper()
	got, err := channel.Call[string](context.Background(), room, "who", nil)
	if err != nil || got != want {
		c.t.Errorf("who: %q, %v, want %q", got, err, want)
	}
}

// authBubble runs f in virtual time, over each transport.
func authBubble(t *testing.T, f func(t *testing.T, by socket.ClientTransport)) {
	t.Helper()
	for by, name := range map[socket.ClientTransport]string{
		socket.TransportWebSocket: "websocket", socket.TransportLongPoll: "longpoll",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { f(t, by) })
		})
	}
}

// source returns an AuthTokenFunc that issues tokens of a user.
func (w *authWorld) source(user string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return w.issue(user), nil }
}
