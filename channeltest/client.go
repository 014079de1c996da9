package channeltest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"bennu.example/push"
	"bennu.example/socket"
)

// Client is a client of a Server. Server.Connect makes it, and it is closed when the test ends. It
// reconnects when its connection is lost.
type Client struct {
	// Socket is the client's socket, for everything that this package does not wrap.
	Socket *socket.Client
	// Network is the network between the client and the server.
	Network *Network

	server *Server
	cfg    socket.ClientConfig
	name   string
	frames *frameLog
	states signal

	mu       sync.Mutex
	channels []*Channel
}

func (s *Server) newClient(tb testing.TB, cfg *socket.ClientConfig) *Client {
	tb.Helper()
	c := &Client{server: s, Network: s.Network.part(), frames: new(frameLog), states: newSignal()}
	if cfg != nil {
		c.cfg = *cfg
	}
	if c.cfg.HTTPClient != nil {
		tb.Fatal("channeltest: HTTPClient must be nil, because the network is in memory")
	}
	c.cfg.HTTPClient = c.Network.HTTPClient()
	c.cfg.Serializer = recorded(c.cfg.Serializer, c.frames)
	if c.cfg.ClientID == "" {
		c.cfg.ClientID = rand.Text()
	}
	if c.cfg.ReconnectDelay == nil {
		c.cfg.ReconnectDelay = func(r socket.Retry) time.Duration { return backOff(r.Tries) }
	}
	if c.cfg.RejoinAfter == nil {
		c.cfg.RejoinAfter = backOff
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, c)
	c.name = fmt.Sprintf("client %d", len(s.clients))
	if c.cfg.Logger == nil {
		c.cfg.Logger = s.log.logger(c.name)
	}
	return c
}

// backOff is the delay before an attempt: 10 ms, 20 ms and so on, up to 5 s.
func backOff(tries int) time.Duration {
	return min(10*time.Millisecond<<min(max(tries-1, 0), 10), 5*time.Second)
}

func (c *Client) connect(tb testing.TB) {
	tb.Helper()
	ctx, cancel := c.server.within()
	defer cancel()
	client, err := socket.Dial(ctx, c.server.URL, &c.cfg)
	if err != nil {
		tb.Fatalf("channeltest: %s cannot connect: %v", c, err)
	}
	c.Socket = client
	client.OnState(func(socket.State) { c.states.update(func() {}) })
}

// String returns the name of the client in failure messages, such as "client 1". They are numbered
// in the order of their creation.
func (c *Client) String() string { return c.name }

// Channel returns a channel that is not joined yet: call its Join. So a test can configure
// [Channel.Channel] before, for example with Resume. Params are as for [socket.Client.Channel].
func (c *Client) Channel(topic string, params any) *Channel {
	ch := newChannel(c, topic, params)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.channels = append(c.channels, ch)
	return ch
}

// Join joins a topic. The test fails if the server refuses the join.
func (c *Client) Join(tb testing.TB, topic string, params any) *Channel {
	tb.Helper()
	ch := c.Channel(topic, params)
	ch.Join(tb)
	return ch
}

// ExpectRefused tries to join a topic, and returns the error reply. It must match a pattern: see
// [Inbox.Expect]. Here, a string means {"reason": string}, as for push.Reject. The test fails if
// the server accepts the join.
func (c *Client) ExpectRefused(tb testing.TB, topic string, params, want any) *push.Error {
	tb.Helper()
	ch := c.Channel(topic, params)
	p := &Push{Push: ch.Channel.Join(), channel: ch, what: fmt.Sprintf("join of %q", topic)}
	defer ch.Channel.Leave() // it would try again
	return p.expectError(tb, want)
}

// ExpectStatus waits until the socket has this status, such as socket.StatusDenied, and returns its
// state, which has the cause.
func (c *Client) ExpectStatus(tb testing.TB, want socket.Status) socket.State {
	tb.Helper()
	var state socket.State
	c.await(tb, fmt.Sprintf("the status is not %q", want), func() bool {
		state = c.Socket.State()
		return state.Status == want
	})
	return state
}

// await waits for a condition that may change with the state of the socket.
func (c *Client) await(tb testing.TB, failure string, ok func() bool) {
	tb.Helper()
	ctx, cancel := c.server.within()
	defer cancel()
	if c.states.await(ctx, ok) != nil {
		tb.Fatalf("channeltest: %s: %s after %v\n%s", c, failure, c.server.timeout(), c.situation())
	}
}

// awaitLoss waits until the client knows that its connection is lost.
func (c *Client) awaitLoss(tb testing.TB) {
	tb.Helper()
	if c.Socket != nil {
		c.await(tb, "it is connected", func() bool { return c.Socket.State().Status != socket.StatusConnected })
	}
}

// Disconnect cuts the connection, and keeps the client offline until Reconnect. When it returns,
// the server's channels of the client have ended, and so have their Terminate callbacks. Over long
// poll it does not wait for that, because the server waits for the client to come back.
func (c *Client) Disconnect(tb testing.TB) {
	tb.Helper()
	poll := c.Socket.State().Transport == "longpoll"
	c.Network.Refuse()
	c.Network.Cut()
	c.awaitLoss(tb)
	if !poll {
		c.awaitEnds(tb)
	}
}

// awaitEnds waits until none of the server's channels of this client runs.
func (c *Client) awaitEnds(tb testing.TB) {
	tb.Helper()
	id := c.Socket.Info().ClientID
	ctx, cancel := c.server.within()
	defer cancel()
	served := c.server.served
	if served.await(ctx, func() bool {
		return len(served.of(id, func(k *servedChannel) bool { return !k.ended })) == 0
	}) != nil {
		tb.Fatalf("channeltest: %s: a channel of the server has not ended after %v: does a callback wait?",
			c, c.server.timeout())
	}
}

// Reconnect lets a client connect again after Disconnect or [Network.Refuse]. It waits until the
// client is connected and its channels are joined again, also after [Network.Cut] and
// [Server.Restart].
func (c *Client) Reconnect(tb testing.TB) {
	tb.Helper()
	c.Network.set(func() { c.Network.refuse = false })
	c.Socket.Connect()
	ctx, cancel := c.server.within()
	defer cancel()
	_, _ = c.Socket.Ping(ctx) // if the connection is lost, the client knows it then
	if err := c.Socket.Ready(ctx); err != nil {
		tb.Fatalf("channeltest: %s cannot connect again: %v\n%s", c, err, c.situation())
	}
	c.mu.Lock()
	channels := c.channels
	c.mu.Unlock()
	for _, ch := range channels {
		ch.awaitJoined(tb, ctx)
	}
}

// Close closes the socket, as a program does at its end. When it returns, the server's channels of
// the client have ended.
func (c *Client) Close(tb testing.TB) {
	tb.Helper()
	ctx, cancel := c.server.within()
	defer cancel()
	if err := c.Socket.Close(ctx); err != nil {
		tb.Fatalf("channeltest: close %s: %v", c, err)
	}
	c.awaitEnds(tb)
}

// end closes the socket without waiting for replies.
func (c *Client) end(tb testing.TB) {
	tb.Helper()
	if c.Socket == nil {
		return
	}
	c.Socket.Pause()
	ctx, cancel := c.server.ending()
	defer cancel()
	if err := c.Socket.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		tb.Errorf("channeltest: close %s: %v", c, err)
	}
}

// situation describes the client for a failure message.
func (c *Client) situation() string {
	text := ""
	if state := c.Socket.State(); state.Status != socket.StatusConnected {
		text = fmt.Sprintf("\tthe socket is %s\n", state)
	}
	return text + c.frames.String()
}
