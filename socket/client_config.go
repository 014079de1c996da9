package socket

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/serializer"
)

// ClientConfig says how a client connects. Every zero value works; so does a nil *ClientConfig. It is copied.
//
// The client recovers no panic: a panic in a function of the program that the client calls ends the program. This holds for
// the functions of the configuration, HTTPClient, the params of [Client.Channel], and the callbacks of a Client, its
// channels, their pushes and a presence.Client.
//
// runtime.Goexit, which testing.T.FailNow calls, ends only the callback that calls it; the next one runs on another goroutine.
// In Params, AuthTokenFunc or the params of a channel it fails the attempt. No other function of the configuration may call it.
type ClientConfig struct {
	// Params are the connection's parameters, which the server sees in Request.Params: a map, a struct or url.Values, or a
	// func(context.Context) (any, error) that returns one. The function is called for every attempt to connect, and may block and fail; its
	// context ends with the attempt, which does not end before it returns.
	Params any
	// AuthToken is sent outside of the URL: as a subprotocol of the WebSocket, or as a header with long polling. AuthTokenFunc, if set,
	// is called instead for every attempt to connect, as Params is.
	AuthToken     string
	AuthTokenFunc func(ctx context.Context) (string, error)

	// Header is sent with every request.
	Header http.Header
	// HTTPClient makes the requests; its Transport has TLS, the proxy, cookies. Nil means a plain one. Each connection uses a
	// clone of an *http.Transport; see transport.ClientConfig.HTTPClient for any other RoundTripper.
	HTTPClient *http.Client
	// Serializer is the version of the wire; nil is serializer.V2(), which every Phoenix of today speaks.
	Serializer serializer.Serializer

	// Transport is WebSocket, unless set.
	Transport ClientTransport
	// FallbackAfter is, with Fallback, how long the WebSocket may take to open and to answer one heartbeat. 0: 2.5 s.
	FallbackAfter time.Duration

	// Timeout is how long a reply to a join, a leave or a push may take. 0: 10 s.
	Timeout time.Duration
	// ConnectTimeout is how long an attempt to connect may take, functions included. 0: 20 s.
	ConnectTimeout time.Duration
	// LongPollTimeout is how long a long-poll request may take. Zero means 30 s. A poll that the server holds may take longer,
	// whatever the server's window is: heartbeats show that the connection works.
	LongPollTimeout time.Duration
	// HeartbeatInterval is the time between heartbeats, and from one's answer to the next. Zero means 30 s. They are sent over
	// long poll, too, and at once when the machine's clocks show that it was suspended.
	HeartbeatInterval time.Duration
	// HeartbeatTimeout is how long an answer may take; then the connection is given up. While bytes still come in it may take up to
	// four times as long. 0: the HeartbeatInterval.
	HeartbeatTimeout time.Duration

	// ReconnectDelay returns how long to wait before the next attempt to connect. A negative delay gives up ([StatusFailed]). The
	// client waits longer if the server asks for more: see [Retry.Advice].
	//
	// Nil means phoenix.js's 10, 50, 100, 150, 200, 250, 500, 1000, 2000 and then 5000 ms, with jitter: the delay is between
	// half of that and as much as it later, but at least 1 s later. So the first attempt is made within a second, and the
	// clients of a server that restarts do not all come back within 10 ms.
	//
	// This function and the two below are called by the goroutine that keeps the connection alive: they must return at
	// once, and wait for nothing of the client.
	ReconnectDelay func(Retry) time.Duration
	// DeniedAfter is the same, by the number of the attempt from 1, for a client that was refused with 401 or 403, but may get other params or another token from its
	// functions. Nil means 10, 20, 40 and then 60 s, each between half and one and a half times that. Without such functions it is not asked: only Connect tries again.
	DeniedAfter func(tries int) time.Duration
	// RejoinAfter is the same for joining a channel again while the connection holds; a negative delay closes the channel. Nil
	// means phoenix.js's 1, 2, 5 and then 10 s, with the same jitter as DeniedAfter.
	RejoinAfter func(tries int) time.Duration
	// StayAfter1000 gives up ([StatusFailed]) when the server closes with 1000, as phoenix.js did until 1.8.12. Otherwise, as in
	// phoenix.js 1.8.16, 1000 is like any other code: proxies and some servers (Cowboy on its idle timeout, Bandit on
	// shutdown) send it without meaning that the client must stay away.
	StayAfter1000 bool

	// MaxBuffer bounds, for each channel, the bytes of pushes that wait to be sent; a push that finds no room fails with push.ErrFull.
	// 0: 1 MiB. A single push may be larger.
	MaxBuffer int
	// MaxBacklog bounds the bytes of events that wait for a channel's callbacks, and of those for each iterator; what finds no room is
	// dropped, and told by a *channel.OverflowError. 0: 1 MiB.
	MaxBacklog int
	// MaxMessage bounds one received message; a larger one ends the connection. 0: 16 MiB.
	MaxMessage int64

	// OnProgress is called while a backlog drains: from when more than ProgressOver bytes of pushes wait to be sent, or of events to be
	// handled, until none do; at most ten times a second, and once at the end.
	OnProgress func(ClientStats)
	// ProgressOver is 64 KiB, unless set.
	ProgressOver int

	// Logger gets what happens: nil is silence. Payloads, params and tokens are never logged.
	Logger *zerolog.Logger
}

// ClientTransport is how a client connects.
type ClientTransport uint8

const (
	TransportWebSocket ClientTransport = iota
	TransportLongPoll
	// Fallback is WebSocket, and long poll where a WebSocket does not work: it cannot be opened, or does not answer, and a long poll that is
	// tried right after that does. From then on the WebSocket is tried again from time to time beside it, and taken when it answers.
	TransportFallback
)

// ErrClosed is the cause of all that ends because of [Client.Close].
var ErrClosed = errors.New("socket closed")

// ErrPaused is the cause of all that is lost because of [Client.Pause].
var ErrPaused = errors.New("socket paused")

// ErrHeartbeat is why a connection was given up that did not answer a heartbeat in time.
var ErrHeartbeat = errors.New("heartbeat was not answered")

// errMoved is why a long-poll connection was given up for a WebSocket.
var errMoved = errors.New("moved to a WebSocket that works again")

const (
	// clientCodeNormal closes a connection that is done with. Only a client's end says it.
	clientCodeNormal = 1000
	// clientStable is how long a connection must have held for its loss to count as the first.
	clientStable = 5 * time.Second
	// clientSpread is the least time over which the attempts of many clients to connect again are spread.
	clientSpread = time.Second
	// clientProbeFirst and clientProbeMost bound the time between tries of a WebSocket while long poll is used.
	clientProbeFirst = 30 * time.Second
	clientProbeMost  = 10 * time.Minute
	// clientMoveWait is how long a WebSocket that works again waits for a moment without unanswered pushes.
	clientMoveWait = 20 * time.Second
	// clientSettle is how long Close waits for answers that nobody waits for, once it is known that the server has received all.
	clientSettle = time.Second
	// clientHeartbeatGrace is how many more timeouts a heartbeat's answer may take while bytes come in.
	clientHeartbeatGrace = 3
)

var (
	clientReconnectTable = []time.Duration{10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000}
	clientDeniedTable    = []time.Duration{10_000, 20_000, 40_000, 60_000}
	clientRejoinTable    = []time.Duration{1000, 2000, 5000, 10_000}
)

// clientDelays returns the delays of a table of milliseconds, whose last entry repeats.
func clientDelays(table []time.Duration) func(tries int) time.Duration {
	return func(tries int) time.Duration {
		return table[min(max(tries, 1), len(table))-1] * time.Millisecond
	}
}

// clientJitter returns the same delays from a half to one and a half times as long, spread over at least the given time.
func clientJitter(table []time.Duration, spread time.Duration) func(tries int) time.Duration {
	delay := clientDelays(table)
	return func(tries int) time.Duration {
		d := delay(tries)
		return d/2 + rand.N(max(d, spread))
	}
}

func (cfg *ClientConfig) withDefaults() ClientConfig {
	var c ClientConfig
	if cfg != nil {
		c = *cfg
	}
	c.Header = c.Header.Clone()
	if c.Serializer == nil {
		c.Serializer = serializer.V2()
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.FallbackAfter, 2500 * time.Millisecond},
		{&c.Timeout, 10 * time.Second},
		{&c.ConnectTimeout, 20 * time.Second},
		{&c.LongPollTimeout, 30 * time.Second},
		{&c.HeartbeatInterval, 30 * time.Second},
		{&c.HeartbeatTimeout, c.HeartbeatInterval},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.HeartbeatTimeout <= 0 {
		c.HeartbeatTimeout = c.HeartbeatInterval
	}
	if c.ReconnectDelay == nil {
		delay := clientJitter(clientReconnectTable, clientSpread)
		c.ReconnectDelay = func(r Retry) time.Duration { return delay(r.Tries) }
	}
	if c.DeniedAfter == nil {
		c.DeniedAfter = clientJitter(clientDeniedTable, 0)
	}
	if c.RejoinAfter == nil {
		c.RejoinAfter = clientJitter(clientRejoinTable, 0)
	}
	for _, n := range []struct {
		field *int
		value int
	}{{&c.MaxBuffer, 1 << 20}, {&c.MaxBacklog, 1 << 20}, {&c.ProgressOver, 64 << 10}} {
		if *n.field <= 0 {
			*n.field = n.value
		}
	}
	if c.Logger == nil {
		nop := zerolog.Nop()
		c.Logger = &nop
	}
	return c
}
