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
)

// Config says how sockets are served. Every zero value works; Channels alone make a server.
type Config struct {
	// Channels says which handler serves which topics.
	Channels channel.Routes

	// Connect decides about each new socket, before it is upgraded; nil accepts all. The context it returns (nil: the one it got) is the
	// parent of every callback's context: put what the socket is about there, under typed keys. Cancelling it has no effect. An error
	// refuses with 403, or as a *Refusal says; it is logged, and its text never reaches the client. It runs on the request's goroutine; a
	// panic is answered with 500. The context that it gets ends after 30 seconds, or when Shutdown is called;
	// Connect should return then. Requests that are not handshakes never get here.
	Connect func(ctx context.Context, r *Request) (context.Context, error)

	// PubSub carries the broadcasts; nil is one of this handler's own, for this process only. Handlers that share one share their topics.
	PubSub *pubsub.PubSub

	// Serializers are the versions to speak, in order of preference; nil is 1.0.0, 2.0.0 and 3.0.0. They must be comparable, or NewHandler
	// panics.
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
	// X-Forwarded-For the address for Admission. The proxy must set them, and not pass on the client's.
	TrustedProxies []string
	// CheckOrigin, if set, decides instead of Origins. An origin that is malformed is an empty URL.
	CheckOrigin func(r *http.Request, origin *url.URL) bool
	// InsecureAnyOrigin lets every page of the web connect, with the cookies of its visitor.
	InsecureAnyOrigin bool

	// AuthToken takes the client's authToken, which phoenix.js sends as a WebSocket subprotocol, or as a header with long polling, and
	// puts it in Request.Token. Off, such a token is ignored.
	AuthToken bool
	// Subprotocols are the WebSocket subprotocols to answer, in order of preference; a client that offers others only is refused. nil
	// ignores what the client offers.
	Subprotocols []string

	// WebSocket and LongPoll are the transports' own settings. Both are on. With a PubSub that joins several nodes, set LongPoll.Secret, the
	// same on all: then any node serves any long-poll request, by way of the PubSub. Otherwise a balancer has to be sticky.
	WebSocket websocket.Config
	LongPoll  longpoll.Config

	// MaxMessage bounds a message from a client, in bytes; 0 is 1 MiB. A larger one ends the connection with 1009.
	MaxMessage int64
	// MaxQueue bounds the broadcasts and pushes that wait for one client, in bytes. Zero means 1 MiB. OnSlow determines what happens beyond
	// this bound.
	//
	// Answers, and what else a client's own messages cause, have a second budget of this size. They never end the connection: while they
	// take more than half of it, the client is not read and its channels handle no further event. So one client may cost twice MaxQueue,
	// what waits in its channels' mailboxes, one answer for each channel whose callback runs, and one for each reference that the
	// program keeps to reply later. A client that takes nothing meanwhile is ended by the write timeout, or on long poll when its polls cease.
	MaxQueue int
	// OnSlow is transport.Disconnect, unless it is DropOldest or DropNewest. It is for all broadcasts and pushes that have no policy of their
	// own: see channel.OnSlow, and channel.Latest.
	OnSlow transport.SlowPolicy
	// MaxMailbox bounds what waits for one channel's callbacks, in bytes; 0 is 1 MiB. A full mailbox slows its client down, and after
	// 5 seconds ends the channel with phx_error.
	MaxMailbox int
	// MaxChannels bounds the channels of one socket; 0 is 100. A further join is refused, reason "too many channels joined". So is any join
	// while the callbacks of twice as many channels run, those included that the client has left or joined anew.
	MaxChannels int
	// JoinTimeout bounds the time of a handler's join callback; 0 is 30 s, and a negative one is no bound. The context of one that takes
	// longer is cancelled by channel.ErrJoinTimeout, and the join is refused, reason "join crashed": the topic may be joined anew, at once.
	// What the callback returns later counts for nothing; if it is no error, Terminate is called with that reason.
	JoinTimeout time.Duration
	// MaxTopic bounds the length of a topic, of an event and of a message's refs, in bytes. Zero means
	// 1,024. A join of a longer topic is refused, reason "topic too long". A message with a longer
	// event or ref is answered with an error, reason "event too long" or "ref too long".
	MaxTopic int
	// JoinRate bounds the joins of one socket, per second and with twice as many at once; 0 is 500, and a negative one is no bound. A join
	// beyond it is refused, reason "too many joins".
	JoinRate int
	// MessageRate bounds the other messages of one socket likewise, heartbeats not counted; 0 is no bound. A message beyond it is answered
	// with an error, reason "too many messages".
	MessageRate int
	// HandshakeRate bounds the handshakes of the whole handler, per second and with twice as many at once. Zero
	// means no bound. Requests that are not handshakes do not count. One beyond it is answered with 503 and
	// Retry-After, before its origin is looked at.
	HandshakeRate int
	// MaxQuery bounds a request's query, in bytes. Zero means 16 KiB. A longer one is answered with 414, one of more
	// than 1,000 pairs with 400.
	MaxQuery int
	// Admission bounds the sockets, handshakes, joins and messages of one client, by its address or
	// its user. It is off unless set.
	Admission Admission
	// IdleTimeout ends a WebSocket whose client sent nothing for so long; 0 is 60 s. Clients send a heartbeat every 30 s.
	IdleTimeout time.Duration

	// Drain says how Shutdown spreads the ends of the connections.
	Drain Drain

	// Logger receives crashes and refusals, and more at debug level. Nil means warnings and errors on
	// standard error; zerolog.Nop is silent; logging.FromSlog accepts a logger of log/slog. Payloads,
	// params and tokens are never logged. It is called from many goroutines, so a panic in its writer
	// or hooks may end the program.
	Logger *zerolog.Logger
}

// Drain is the pace of Shutdown: so many connections are told to come back (to another node), then a pause. The defaults are Phoenix's.
type Drain struct {
	Batch    int           // connections; 0 is 10,000
	Interval time.Duration // 0 is 2 s
}

// Request is a client that wants to connect.
type Request struct {
	// ID names the socket for Handler.Disconnect. Connect sets it; "" is anonymous. Several sockets may share one: a user's devices.
	ID string
	// Params are the query's parameters, nested as a[b]=1 says, and the path variables of the pattern that the handler is mounted by, which
	// win. Decode them into a struct by json tags (values are strings) or a map[string]any. vsn is among them.
	Params serializer.Payload
	// Token is the client's authToken, if Config.AuthToken is on and it gave one.
	Token string
	// HTTP is the request; only its header, URL and TLS state are of use, and only until Connect returns.
	HTTP *http.Request
	// Transport is "websocket" or "longpoll".
	Transport string
	// Version is the serializer's.
	Version string
}

// Refusal is an error of Connect that says how a WebSocket request is answered instead of with 403. (Long polling has one answer to a
// refusal, as in Phoenix.)
type Refusal struct {
	Status int // 0 is 403
	Header http.Header
	Body   string // for the client to see
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
)

// withDefaults fills in what is zero.
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
	cfg.Logger = cmp.Or(cfg.Logger, logging.Default())
	return cfg
}
