package socket

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/logging"
	"bennu.example/offline"
	"bennu.example/serializer"
)

// ClientConfig configures a Client, which copies it. The zero value and nil use the defaults.
//
// The client recovers no panic: a panic in a function of the program that the client calls ends the
// program. This holds for the functions of the configuration, HTTPClient, the params of
// [Client.Channel], and the callbacks of a Client, its channels, their pushes and a
// presence.Client.
//
// runtime.Goexit, which testing.T.FailNow calls, ends only the callback that calls it. The next
// callback runs on another goroutine. In Params, AuthTokenFunc or the params of a channel, Goexit
// fails the attempt. No other function of the configuration may call it.
type ClientConfig struct {
	// Params are the connection's parameters. The server sees them in Request.Params. They are a
	// map, a struct, url.Values, or a func(context.Context) (any, error) that returns one of these.
	//
	// The client calls the function for each attempt to connect. The function may block and may
	// fail. Its context is canceled at the end of the attempt, and the attempt waits for it.
	Params any
	// AuthToken is sent outside of the URL: in a subprotocol of the WebSocket, or in a header over
	// long poll. If AuthTokenFunc is not nil, it is called instead, in the same way as Params. It is
	// also called when the token expires, to refresh it over the open connection: see Client.Auth.
	// There is one call at a time.
	AuthToken     string
	AuthTokenFunc func(ctx context.Context) (string, error)

	// ClientID names this client over all of its connections: see [Info]. The server sees it in
	// Request.ClientID. It has 16 to 64 letters, digits, "-" and "_", and comes from 128 random bits
	// or more. A program that stores it keeps its identity over restarts. Empty means that NewClient
	// makes one.
	ClientID string
	// NoSocketChannel keeps the client from joining the channel $socket, by which it learns the
	// server's time and limits, and when to move to another connection. The connect parameter $client
	// is then sent only if ClientID or Offline is set. Servers that do not have the channel, such as
	// Phoenix, refuse the join, which has no effect on other channels.
	NoSocketChannel bool

	// Header is sent with every request.
	Header http.Header
	// HTTPClient sends the requests. Its Transport holds the settings for TLS and the proxy. Nil
	// means a client without settings. Each connection uses a clone of an *http.Transport; see
	// transport.ClientConfig.HTTPClient for any other RoundTripper.
	HTTPClient *http.Client
	// Serializer is the version of the wire. Nil means serializer.V2(), which every current Phoenix
	// accepts.
	Serializer serializer.Serializer

	// TopicPrefix is put before the topic of every channel on the wire, except $socket and phoenix.
	// The client's methods and errors show topics without it. It has at most 256 bytes and does not
	// begin with "$"; otherwise the client fails ([StatusFailed]).
	TopicPrefix string

	// Transport selects the transport. Zero means TransportWebSocket.
	Transport ClientTransport
	// FallbackAfter bounds the time that a WebSocket may take to open and to answer one heartbeat,
	// with TransportFallback. Zero means 2.5 s.
	FallbackAfter time.Duration

	// Timeout bounds the time until the reply to a join, a leave or a push. Zero means 10 s.
	Timeout time.Duration
	// ConnectTimeout bounds an attempt to connect, including Params and AuthTokenFunc. Zero means
	// 20 s.
	ConnectTimeout time.Duration
	// LongPollTimeout bounds a long-poll request. Zero means 30 s. A poll that the server holds may
	// take longer, whatever the server's window is: heartbeats show that the connection works.
	// Without heartbeats, it bounds such a poll too.
	LongPollTimeout time.Duration
	// HeartbeatInterval is the time from the reply to a heartbeat to the next one. Zero means 30 s. A
	// negative interval means that there are none; servers then end an idle connection, Bennu and
	// Phoenix after 60 s. Heartbeats are sent over long poll as well.
	HeartbeatInterval time.Duration
	// HeartbeatTimeout bounds the time until the reply to a heartbeat. Without a reply the client
	// closes the connection and reconnects. While bytes arrive, the reply may take up to four times
	// as long. Zero means HeartbeatInterval.
	HeartbeatTimeout time.Duration
	// WakeAfter is the length of a suspension of the machine or the process after which the client
	// calls Wake. It compares the clocks every 5 s, so it notices one within 5 s. Timeouts of pushes
	// that ran out meanwhile get 5 s more. Zero means 10 s. A negative time means never.
	WakeAfter time.Duration

	// ReconnectDelay returns the delay before the next attempt to connect. A negative delay gives up
	// ([StatusFailed]). The client waits longer if the server asks for more: see [Retry.Advice].
	//
	// Nil means the delays of phoenix.js with jitter: 10, 50, 100, 150, 200, 250, 500, 1000, 2000
	// and then 5000 ms. The actual delay is between one half and one and a half times as long, and
	// spread over at least 1 s. If the server has closed the connection with 1001 or 1012, the first
	// delay is up to 1 s, or what the server advised. So the clients of a server that restarts do not
	// return together.
	//
	// The client calls this function and the next two on the goroutine that maintains the
	// connection. They must return immediately and must not wait for the client.
	ReconnectDelay func(Retry) time.Duration
	// DeniedAfter returns the delay after the server refused the client with 401 or 403. Tries
	// counts refusals in a row, from 1. A negative delay gives up. Nil means 10, 20, 40 and then
	// 60 s, each between one half and one and a half times as long.
	//
	// It is called only if Params or AuthTokenFunc is a function. Otherwise a client that was refused
	// makes no further attempt until Connect is called.
	DeniedAfter func(tries int) time.Duration
	// RejoinAfter returns the delay before a channel joins again while the connection holds. Tries
	// counts its joins that failed, from 1. A negative delay closes the channel. Nil means the
	// delays of phoenix.js, 1, 2, 5 and then 10 s, with the same jitter as DeniedAfter.
	RejoinAfter func(tries int) time.Duration
	// JoinConcurrency bounds the joins that were sent and not answered, and the params functions that
	// run. Those that take longer than 1 s do not count. Joins beyond it wait: see
	// channel.Client.Priority. Zero means 64. A negative number means no bound. Whatever it is, a
	// connection sends at most 400 joins a second, 800 at once.
	JoinConcurrency int
	// ManualRejoin keeps channels from joining again by themselves. After a lost connection, a crash
	// or a refusal a channel stays errored until Rejoin of the channel or of the client is called. A
	// channel whose Join was called without a connection waits for Rejoin as well. RejoinAfter is not
	// called. Pushes wait and time out as usual.
	ManualRejoin bool
	// StayAfter1000 makes the client give up ([StatusFailed]) when the server closes with 1000, as
	// phoenix.js does up to 1.8.12. Otherwise 1000 is like any other code, as in phoenix.js 1.8.16:
	// proxies and some servers (Cowboy when it is idle, Bandit when it shuts down) send 1000
	// although the client should reconnect.
	StayAfter1000 bool

	// Offline keeps the pushes of channel.Client.PushDurable in a store until they are answered.
	// Unless ClientID is set, the store also has the client's id, which is then the same after a
	// restart. The joins of all channels ask the server for the window of its channel.Once. NewClient
	// reads the store, and waits for that. If the store fails, that is logged, and every PushDurable
	// fails. Nil means that the client has no store.
	Offline *offline.Config

	// CloseReason is sent to the server when Close ends the connection. It is cut after 123 bytes.
	CloseReason string

	// MaxBuffer bounds the bytes of pushes that wait to be sent, for each channel. A push beyond it
	// fails with push.ErrFull. A single push may be larger. Zero means 1 MiB.
	MaxBuffer int
	// MaxBacklog bounds the bytes of events that wait for the callbacks of a channel, and of those
	// that wait for each of its iterators. Events beyond it are dropped, and reported by a
	// *channel.OverflowError. Zero means 1 MiB.
	MaxBacklog int
	// MaxMessage bounds a received message. A larger one ends the connection. Zero means 16 MiB.
	MaxMessage int64

	// OnProgress is called while a backlog drains. It is called first when more than ProgressOver
	// bytes of pushes wait to be sent or of events wait for callbacks, then at most ten times a
	// second, and once at the end.
	OnProgress func(ClientStats)
	// ProgressOver is the size in bytes of a backlog that OnProgress reports. Zero means 64 KiB.
	ProgressOver int

	// Logger receives what happens to the connection. Nil means warnings and errors on standard error;
	// zerolog.Nop is silent. Payloads, params and tokens are never logged.
	Logger *zerolog.Logger
}

// ClientTransport selects how a client connects.
type ClientTransport uint8

const (
	// TransportWebSocket uses a WebSocket.
	TransportWebSocket ClientTransport = iota
	// TransportLongPoll uses long poll.
	TransportLongPoll
	// TransportFallback uses a WebSocket, or long poll where WebSockets do not work: they do not
	// open, do not answer, or do not last, while long poll works. On long poll, the client tries a
	// WebSocket from time to time and moves to it when it works.
	TransportFallback
)

// ErrClosed is the cause of everything that ends because of [Client.Close].
var ErrClosed = errors.New("socket closed")

// ErrPaused is the cause of everything that ends because of [Client.Pause] or [Client.Disconnect].
var ErrPaused = errors.New("socket paused")

// ErrHeartbeat is the cause if the server did not reply to a heartbeat in time.
var ErrHeartbeat = errors.New("heartbeat was not answered")

// errMoved is the cause if the client left a long-poll session for a WebSocket.
var errMoved = errors.New("moved to a WebSocket that works again")

const (
	// clientCodeNormal closes a connection that is no longer needed. Only the client's end sends it.
	clientCodeNormal = 1000
	// clientStable is the time after which a connection counts as stable: the back-off starts again.
	clientStable = 5 * time.Second
	// clientSpread is the least time over which reconnecting clients are spread.
	clientSpread = time.Second
	// clientProbeFirst and clientProbeMost bound the time between attempts to open a WebSocket while
	// long poll is used.
	clientProbeFirst = 30 * time.Second
	clientProbeMost  = 10 * time.Minute
	// clientMoveWait bounds the time that a WebSocket that works again waits for a moment without
	// unanswered pushes.
	clientMoveWait = 20 * time.Second
	// clientSettle bounds the time that Close waits for replies that no caller waits for, once the
	// server has received everything.
	clientSettle = time.Second
	// clientHeartbeats is the default of HeartbeatInterval.
	clientHeartbeats = 30 * time.Second
	// clientHeartbeatGrace is the number of further timeouts that a heartbeat's reply may take while
	// bytes arrive.
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

// clientJitter returns the same delays with jitter: at least half as long, and spread over the
// delay itself or over spread, if that is longer.
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
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	c.HeartbeatInterval = cmp.Or(c.HeartbeatInterval, clientHeartbeats)
	c.JoinConcurrency = cmp.Or(c.JoinConcurrency, clientJoins)
	c.WakeAfter = cmp.Or(c.WakeAfter, 10*time.Second)
	if c.HeartbeatTimeout <= 0 {
		c.HeartbeatTimeout = c.HeartbeatInterval
	}
	if c.HeartbeatTimeout <= 0 {
		c.HeartbeatTimeout = clientHeartbeats
	}
	if c.ReconnectDelay == nil {
		c.ReconnectDelay = clientReconnectDelay()
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
	c.Logger = cmp.Or(c.Logger, logging.Default())
	return c
}
