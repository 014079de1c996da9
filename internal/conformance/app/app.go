// Package app is a small application that uses every feature of the wire protocol. Equivalent
// applications exist for other frameworks, so that the same scripts can run against all of them.
package app

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/transport/longpoll"
	"bennu.example/will"
)

// Config is the configuration that test suites vary. Zero values mean the defaults of the
// framework.
type Config struct {
	IdleTimeout time.Duration // of a WebSocket
	Window      time.Duration // of long polling
	MaxQueue    int           // 16,000,000 unless set
	MaxMailbox  int           // the same
	RecordKeep  int           // records of a topic rec:*; 256 unless set
	Auth        *socket.Auth  // with Verify set by New; nil means none
	Wills       will.Store    // nil means the memory
	Drain       socket.Drain  // without advice unless set, because there is no other node
	Logger      *zerolog.Logger
	// Serializers are the accepted serializers. Nil means 1.0.0 and 2.0.0, because Phoenix refuses
	// 3.0.0 and the suites check that.
	Serializers []serializer.Serializer
}

// App is the application. It must be stopped by Shutdown.
type App struct {
	http.Handler
	socket   *socket.Handler
	presence *presence.Presence
	bans     *bans
}

// maxMessage is Phoenix's default limit, with Bandit.
const maxMessage = 8_000_000

// New creates the application with its socket at /socket.
func New(cfg Config) *App {
	if cfg.Serializers == nil {
		cfg.Serializers = []serializer.Serializer{serializer.V1(), serializer.V2()}
	}
	cfg.MaxQueue = cmp.Or(cfg.MaxQueue, 2*maxMessage)
	cfg.MaxMailbox = cmp.Or(cfg.MaxMailbox, 2*maxMessage)
	cfg.Drain.Notice = cmp.Or(cfg.Drain.Notice, -1)
	rules := history.Rules{"rec:*": {Count: cfg.RecordKeep}, "stream:*": {}}
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules)
	who := presence.New(ps, presence.Config{})
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	everything := state.Config{Allow: func(context.Context, *channel.Channel, state.Access) error { return nil }}
	var h *socket.Handler
	kick := func(ctx context.Context, topic, connection, reason string) error {
		return h.Kick(ctx, topic, socket.Member{ConnectionID: connection}, push.Reason(reason))
	}
	banned := new(bans)
	if cfg.Auth != nil {
		cfg.Auth.Verify, cfg.Auth.Anonymous = banned.verify, true
	}
	h = socket.NewHandler(socket.Config{
		Auth: cfg.Auth,
		Channels: channel.Routes{
			"room:*":     room(cfg.Auth != nil),
			"presence:*": users(who),
			"admin":      admin(ps, kick),
			"bench:*":    bench(),
			"rec:*":      recorded(),
			"doc:*":      objects.Documents(everything),
			"map:*":      objects.Maps(everything),
			"list:*":     objects.Lists(everything),
			"tree:*":     objects.Trees(everything),
			"stream:*":   objects.Streams(everything),
		},
		Connect:           connect,
		PubSub:            ps,
		Serializers:       cfg.Serializers,
		InsecureAnyOrigin: true,
		MaxMessage:        maxMessage,
		MaxQueue:          cfg.MaxQueue,
		MaxMailbox:        cfg.MaxMailbox,
		JoinRate:          -1,
		MaxTopic:          128 << 10, // also limits refs, and the suites use long ones
		IdleTimeout:       cfg.IdleTimeout,
		LongPoll:          longpoll.Config{Window: cfg.Window},
		Wills:             cfg.Wills,
		Drain:             cfg.Drain,
		Logger:            cfg.Logger,
	})
	mux := http.NewServeMux()
	mux.Handle("/socket/", h)
	mux.Handle("/socket", http.NotFoundHandler()) // net/http would redirect, but Phoenix responds with 404
	return &App{Handler: mux, socket: h, presence: who, bans: banned}
}

// Advise sends all clients away, with a reason.
func (a *App) Advise(ctx context.Context, reason string) error {
	return a.socket.Advise(ctx, reason, 1)
}

// Shutdown shuts down the sockets, and then presence.
func (a *App) Shutdown(ctx context.Context) error {
	return errors.Join(a.socket.Shutdown(ctx), a.presence.Close(ctx))
}

func connect(ctx context.Context, r *socket.Request) (context.Context, error) {
	var params struct {
		Reject any `json:"reject"`
		UserID any `json:"user_id"`
	}
	if err := r.Params.Decode(&params); err != nil {
		return nil, err
	}
	if params.Reject == "1" {
		return nil, errors.New("rejected on request")
	}
	if _, ok := socket.GrantFrom(ctx); ok {
		return ctx, nil // the grant's ID counts
	}
	if id, ok := params.UserID.(string); ok {
		r.ID = "users_socket:" + id
	}
	return ctx, nil
}
