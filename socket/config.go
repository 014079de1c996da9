package socket

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/logging"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
	"bennu.example/will"
)

// Config configures a Handler. The zero value of every field works; a server needs only Channels.
type Config struct {
	// Channels maps topics to the handlers that serve them.
	Channels channel.Routes

	// Connect decides about each new socket before the connection is upgraded. Nil means that every
	// client is accepted. Requests that are not handshakes never reach it.
	//
	// The context that it returns is the parent of the context of every callback: store the socket's
	// own values there, under typed keys. Cancelling it has no effect. A nil context is
	// context.Background.
	//
	// An error refuses the client with 403, or with the status of a *Refusal. It is logged, and its
	// text is never sent to the client. A panic is answered with 500.
	//
	// Connect runs on the request's goroutine. Its context ends after 30 s, or when Shutdown is
	// called. Connect should return then: Shutdown waits for it.
	Connect func(ctx context.Context, r *Request) (context.Context, error)

	// Auth authenticates the connections by tokens that expire and can be refreshed. It sets
	// AuthToken. Nil means that Connect alone decides.
	Auth *Auth

	// PubSub carries the broadcasts. Nil means a PubSub of this handler alone, without other nodes.
	// Handlers that share a PubSub share their topics.
	PubSub *pubsub.PubSub

	// Serializers are the supported versions of the protocol, in order of preference. Nil means 1.0.0,
	// 2.0.0 and 3.0.0. NewHandler panics if one of them is not comparable.
	Serializers []serializer.Serializer

	// Origins are the pages that may connect, by the request's Origin header. Nil means those of the
	// host that the request names, whatever the port; a request that came in on a loopback address
	// must then name "localhost" or a loopback address. A request without the header, as programs
	// send it, is allowed. An entry is "https://example.com" (that scheme and its port),
	// "//example.com" (http or https, any port), "//example.com:8080", "//*.example.com" (the host
	// and all below it), or SameOrigin. Names are written in ASCII, as browsers send them: NewHandler
	// panics on others.
	Origins []string
	// Hosts are the names of this server: "example.com", "*.example.com" (the host and all below it),
	// or an IP address. If set, every request whose Host header is none of them is refused, but for
	// loopback names on a loopback address. This defends against DNS rebinding where Origins is nil or
	// contains SameOrigin: see docs/security.md.
	Hosts []string
	// TrustedProxies are the IP addresses of proxies in front of this server, or ranges such as
	// "10.0.0.0/8". Of these, X-Forwarded-Proto determines the scheme for SameOrigin, and
	// X-Forwarded-For the address for Admission. The proxy must set them, and not pass on the
	// client's.
	TrustedProxies []string
	// CheckOrigin, if set, decides instead of Origins. It receives an empty URL for a malformed
	// origin.
	CheckOrigin func(r *http.Request, origin *url.URL) bool
	// InsecureAnyOrigin allows every page of the web to connect, with the cookies of its visitor.
	InsecureAnyOrigin bool

	// AuthToken stores the client's authToken in Request.Token. phoenix.js sends it as a WebSocket
	// subprotocol, or as a header with long polling. If AuthToken is false, such a token is ignored.
	AuthToken bool
	// NoSocketChannel removes the channel $socket: a client that joins it receives "unmatched topic",
	// as from Phoenix. By default a client may join it to learn its connection's id, the limits and
	// the server's time. See docs/client.md.
	NoSocketChannel bool
	// Subprotocols are the accepted WebSocket subprotocols, in order of preference. A client that
	// offers only others is refused. Nil means that the client's offer is ignored.
	Subprotocols []string

	// WebSocket and LongPoll are the settings of the transports. Both are enabled by default. Those of
	// their fields that this Config has as well, such as MaxMessage, are overrides for one transport:
	// zero means the value of this Config.
	//
	// With a PubSub that joins several nodes, set LongPoll.Secret to the same value on all of them.
	// Then every node can serve every long-poll request, through the PubSub. Otherwise load balancing
	// has to be sticky.
	WebSocket websocket.Config
	LongPoll  longpoll.Config

	// MaxMessage bounds a message from a client, in bytes. Zero means 1 MiB. A larger message ends the
	// connection with code 1009.
	MaxMessage int64
	// MaxQueue bounds the broadcasts and pushes that wait for one client, in bytes. Zero means 1 MiB.
	// OnSlow determines what happens beyond this bound.
	//
	// Replies, and other messages that the client's own messages cause, have a second budget of this
	// size. They never end the connection: while they take more than half of it, nothing is read from
	// the client and its channels handle no further event.
	//
	// So one client costs at most twice MaxQueue, its channels' mailboxes, a reply for each channel
	// whose callback runs, and a reply for each reference that the program keeps. A client that reads
	// nothing is ended by the write timeout, or on long poll when its polls cease.
	MaxQueue int
	// OnSlow is the policy for broadcasts and pushes that have no policy of their own: see
	// channel.OnSlow and channel.Latest. It is transport.Disconnect, DropOldest or DropNewest. Zero,
	// which is transport.Inherit, means Disconnect. A handler can return to Disconnect for an event.
	OnSlow transport.SlowPolicy
	// MaxMailbox bounds the messages that wait for the callbacks of one channel, in bytes. Zero means
	// 1 MiB. While a mailbox is full, nothing is read from its client. After 5 s the channel ends with
	// phx_error. Messages that a channel sends to itself while it handles its client's, such as its
	// own broadcasts that it intercepts, have room up to four times this bound.
	MaxMailbox int
	// MaxChannels bounds the channels of one socket. Zero means 100. A further join is refused, reason
	// "too many channels joined". So is any join while the callbacks of twice as many channels run,
	// including channels that the client has left or joined again.
	MaxChannels int
	// JoinTimeout bounds the time of a join callback. Zero means 30 s. A negative value means no
	// bound. After this time the context of the callback is cancelled with channel.ErrJoinTimeout, and
	// the join is refused, reason "join crashed". The client may join the topic again at once. The
	// result of the callback is ignored, but if it is not an error, Terminate is called with
	// ErrJoinTimeout.
	JoinTimeout time.Duration
	// MaxTopic bounds the length of a topic, of an event and of a message's refs, in bytes. Zero means
	// 1,024. A join of a longer topic is refused, reason "topic too long". A message with a longer
	// event or ref is answered with an error, reason "event too long" or "ref too long".
	MaxTopic int
	// JoinRate bounds the joins of one socket per second, with bursts of twice as many. Zero means
	// 500. A negative value means no bound. A join beyond it is refused, reason "too many joins".
	JoinRate int
	// MessageRate bounds the other messages of one socket per second, except heartbeats, with bursts
	// of twice as many. Zero means no bound. A message beyond it is answered with an error, reason
	// "too many messages".
	MessageRate int
	// HandshakeRate bounds the handshakes of the whole handler per second, with bursts of twice as
	// many. Zero means no bound. Requests that are not handshakes do not count. A handshake beyond it
	// is answered with 503 and Retry-After, before its origin is checked.
	HandshakeRate int
	// MaxQuery bounds a request's query, in bytes. Zero means 16 KiB. A longer one is answered with
	// 414, and one of more than 1,000 pairs with 400.
	MaxQuery int
	// Admission bounds the sockets, handshakes, joins and messages of one client, by its address or
	// its user. It is off unless set.
	Admission Admission
	// IdleTimeout ends a WebSocket whose client sends nothing for this time. Zero means 60 s. Clients
	// send a heartbeat every 30 s.
	IdleTimeout time.Duration

	// Wills keeps the last wills of the clients: see channel.AllowWill. Nil means the memory of this
	// handler. Then its wills are lost with the process, and Shutdown deletes them. The stores of the
	// engines are shared by the nodes, and the others run the wills of a node that has ended.
	Wills will.Store

	// Drain is the pace at which Shutdown ends the connections.
	Drain Drain

	// Hooks are notified of what happens, for metrics and traces: see docs/observability.md. They are
	// called in this order, and those that end something in the reverse order.
	Hooks []*Hooks

	// Logger receives crashes and refusals, and more at debug level. Nil means warnings and errors on
	// standard error; zerolog.Nop is silent; logging.FromSlog accepts a logger of log/slog. Payloads,
	// params and tokens are never logged. It is called from many goroutines, so a panic in its writer
	// or hooks may end the program.
	Logger *zerolog.Logger
}

// Drain is the pace of Shutdown: it closes a batch of connections, whose clients reconnect to
// another node, and then pauses. The defaults of Batch and Interval are those of Phoenix.
//
// Clients that joined the channel $socket are notified first. They receive the event "advice", and
// the connection is closed after Notice. The Go client joins $socket by itself, and opens another
// connection meanwhile.
type Drain struct {
	Batch    int           // The number of connections. Zero means 10,000.
	Interval time.Duration // The pause. Zero means 2 s.
	// Notice is the time between the advice and the close. Zero means 2 s, or 10 s for clients that
	// open another connection meanwhile. A negative value means that no advice is sent.
	Notice time.Duration
	// Spread is the time over which the clients should reconnect after the close: the advice has a
	// random part of it. Zero means 5 s. A negative value means at once.
	Spread time.Duration
}

// Request is a client's request to connect.
type Request struct {
	// ID names the socket for Handler.Disconnect. Connect sets it. Empty means anonymous. Several
	// sockets may have the same ID, such as those of a user's devices.
	ID string
	// ClientID and ConnectionID name the client and this connection: see [Info]. They are set before
	// Connect, which cannot change them.
	ClientID, ConnectionID string
	// Params are the parameters of the query, including vsn, and the path variables of the pattern
	// under which the handler is mounted, which take precedence. A key such as a[b] is nested. Decode
	// them into a map[string]any, or into a struct with json tags; the values are strings.
	Params serializer.Payload
	// Token is the client's authToken, if Config.AuthToken is true and the client sent one.
	Token string
	// HTTP is the request. Only its header, URL and TLS state are useful, and only until Connect
	// returns.
	HTTP *http.Request
	// Transport is "websocket" or "longpoll".
	Transport string
	// Version is the version of the serializer.
	Version string
}

// Refusal is an error that Connect returns to choose the answer to a WebSocket request, instead of
// 403. Long polling has one answer to all refusals, as in Phoenix.
type Refusal struct {
	Status int // Zero means 403.
	Header http.Header
	Body   string // The client receives it.
	// Final means that the client must not come back with these credentials, with Config.Auth. In
	// the handshake, the client gets a connection that only tells it so, with Body as the reason,
	// which is closed with CodeDenied after 30 s. Beyond 1,000 such connections, and without the
	// channel $socket, it is refused as any other. If Auth.Verify returns it for a token on an open
	// connection, the connection ends as by Handler.Revoke.
	Final bool
}

func (e *Refusal) Error() string {
	return fmt.Sprintf("socket: refused with %d", cmp.Or(e.Status, http.StatusForbidden))
}

// The defaults of Config.
const (
	defaultMaxMessage  = 1 << 20
	defaultMaxQueue    = 1 << 20
	defaultMaxMailbox  = 1 << 20
	defaultMaxChannels = 100
	defaultMaxTopic    = 1024
	defaultMaxQuery    = 16 << 10
	defaultJoinTimeout = 30 * time.Second
	defaultJoinRate    = 500
	defaultIdleTimeout = 60 * time.Second
	defaultDrainBatch  = 10_000
	defaultDrainPause  = 2 * time.Second
	defaultDrainNotice = 2 * time.Second
	defaultMoveNotice  = 10 * time.Second
	defaultDrainSpread = 5 * time.Second
)

// withDefaults replaces zero values by their defaults.
func (cfg Config) withDefaults() Config {
	cfg.MaxMessage = cmp.Or(cfg.MaxMessage, defaultMaxMessage)
	cfg.MaxQueue = cmp.Or(cfg.MaxQueue, defaultMaxQueue)
	cfg.MaxMailbox = cmp.Or(cfg.MaxMailbox, defaultMaxMailbox)
	cfg.MaxChannels = cmp.Or(cfg.MaxChannels, defaultMaxChannels)
	cfg.MaxTopic = cmp.Or(cfg.MaxTopic, defaultMaxTopic)
	cfg.MaxQuery = cmp.Or(cfg.MaxQuery, defaultMaxQuery)
	cfg.JoinTimeout = cmp.Or(cfg.JoinTimeout, defaultJoinTimeout)
	cfg.JoinRate = cmp.Or(cfg.JoinRate, defaultJoinRate)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, defaultIdleTimeout)
	cfg.Drain.Batch = cmp.Or(cfg.Drain.Batch, defaultDrainBatch)
	cfg.Drain.Interval = cmp.Or(cfg.Drain.Interval, defaultDrainPause)
	cfg.Drain.Spread = cmp.Or(cfg.Drain.Spread, defaultDrainSpread)

	ws := &cfg.WebSocket
	ws.Path = cmp.Or(ws.Path, "/websocket")
	ws.MaxMessage = cmp.Or(ws.MaxMessage, cfg.MaxMessage)
	ws.MaxQueue = cmp.Or(ws.MaxQueue, cfg.MaxQueue)
	ws.OnSlow = cmp.Or(ws.OnSlow, cfg.OnSlow)
	ws.IdleTimeout = cmp.Or(ws.IdleTimeout, cfg.IdleTimeout)

	lp := &cfg.LongPoll
	lp.Path = cmp.Or(lp.Path, "/longpoll")
	lp.MaxMessage = cmp.Or(lp.MaxMessage, cfg.MaxMessage)
	lp.MaxQueue = cmp.Or(lp.MaxQueue, cfg.MaxQueue)
	lp.OnSlow = cmp.Or(lp.OnSlow, cfg.OnSlow)

	if cfg.Serializers == nil {
		cfg.Serializers = serializer.Default()
	}
	if cfg.PubSub == nil {
		cfg.PubSub = pubsub.New(nil)
	}
	if cfg.Auth != nil {
		cfg.Auth, cfg.AuthToken = cfg.Auth.withDefaults(), true
	}
	cfg.Logger = cmp.Or(cfg.Logger, logging.Default())
	return cfg
}
