package live

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// The topics of the page, on a PubSub of its own.
const (
	topicLive   = "live"   // the summaries of all nodes, and the actions
	topicPrefix = "topic:" // followed by a topic: its members, presences and events
)

// newSockets returns the handler of the page's connections.
func (h *Handler) newSockets() *socket.Handler {
	return socket.NewHandler(socket.Config{
		Channels: channel.Routes{topicLive: h.liveChannel(), topicPrefix + "*": h.topicChannel()},
		Connect:  h.connect,
		Origins:  []string{socket.SameOrigin},
		Hosts:    h.cfg.Hosts, TrustedProxies: h.cfg.TrustedProxies,
		WebSocket: websocket.Config{Path: "/socket/websocket"},
		LongPoll:  longpoll.Config{Path: "/socket/longpoll"},
		// A page that reads slowly misses some of what would be replaced soon.
		OnSlow: transport.DropOldest, MaxQueue: 4 << 20,
		MaxMessage: 64 << 10, MaxChannels: 10, MaxTopic: 4 << 10, MessageRate: 20, JoinRate: 20,
		Drain:  socket.Drain{Notice: -1},
		Logger: h.cfg.Logger,
	})
}

type (
	levelKey   struct{} // in the context of a request: the Level
	visitorKey struct{} // in the contexts of a connection: the visitor
)

// connect accepts a connection with the level that ServeHTTP has found.
func (h *Handler) connect(ctx context.Context, r *socket.Request) (context.Context, error) {
	level, _ := r.HTTP.Context().Value(levelKey{}).(Level)
	if level < View {
		return nil, &socket.Refusal{Status: http.StatusForbidden}
	}
	if h.own.Stats().Sockets >= maxPages {
		return nil, &socket.Refusal{Status: http.StatusServiceUnavailable}
	}
	return context.WithValue(context.Background(), visitorKey{}, visitor{level, r.HTTP.RemoteAddr, time.Now()}), nil
}

// A visitor is the user of a page.
type visitor struct {
	level  Level
	remote string
	since  time.Time
}

func visitorFrom(ctx context.Context) visitor {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v
}

// A tick is the message that a channel sends to itself at each interval.
type tick struct{}

// ticker sends ticks to a channel until the channel ends.
func (h *Handler) ticker(c *channel.Channel) *time.Timer {
	t := time.AfterFunc(0, func() { _ = c.Send(tick{}) }) // a channel that has ended needs none
	during(c, func() { t.Stop() })
	return t
}

// during calls end when the channel ends, or now if it has ended.
func during(c *channel.Channel, end func()) {
	if !c.OnEnd(end) {
		end()
	}
}

// liveState is the state of a channel on topicLive.
type liveState struct{ ticks *time.Timer }

// A greeting is the reply to the join of topicLive.
type greeting struct {
	Operate bool   `json:"operate"` // the visitor may act
	Events  bool   `json:"events"`  // Config.Events
	Every   int64  `json:"every"`   // milliseconds between two summaries
	ID      string `json:"id"`      // of the node that serves the page
}

func (h *Handler) liveChannel() *channel.Handler {
	return channel.Define(
		func(s *liveState, ctx context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			h.observe(1)
			during(c, func() { h.observe(-1) })
			s.ticks = h.ticker(c)
			v := visitorFrom(ctx)
			return greeting{v.level >= Operate, h.cfg.Events, h.every.Milliseconds(), h.id}, nil
		},
		channel.Info(func(s *liveState, ctx context.Context, _ *channel.Channel, _ tick) error {
			s.ticks.Reset(h.every)
			if time.Since(visitorFrom(ctx).since) > h.recheck {
				h.reconnect(ctx)
			}
			h.askSummaries(ctx)
			return nil
		}),
		action(h, "disconnect", h.doDisconnect),
		action(h, "kick", h.doKick),
		action(h, "broadcast", h.doBroadcast),
	)
}

// reconnect ends the connection of a page, which comes back, so that Authorize decides again.
func (h *Handler) reconnect(ctx context.Context) {
	info, _ := socket.InfoFrom(ctx)
	for c := range h.own.Connections() {
		if c.ConnectionID == info.ConnectionID {
			c.Disconnect()
		}
	}
}

// topicState is the state of a channel on topicPrefix.
type topicState struct {
	topic string
	ticks *time.Timer
	watch *watch // nil without Config.Events
	shown uint64 // the number of the last event that was sent
}

// A topicView is sent to a page about a topic, in addition to the members on each node.
type topicView struct {
	Present []present `json:"present"` // some of the keys
	Count   int       `json:"count"`   // of all keys
	Events  []event   `json:"events"`  // those since the last view
	Missed  uint64    `json:"missed"`  // events in between for which there was no room
}

// A present is a key of a presence.
type present struct {
	Key   string `json:"key"`
	Metas int    `json:"metas"`
	Entry string `json:"entry"` // its beginning
}

func (h *Handler) topicChannel() *channel.Handler {
	return channel.Define(
		func(s *topicState, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			s.topic = strings.TrimPrefix(c.Topic(), topicPrefix)
			h.observe(1)
			during(c, func() { h.observe(-1) })
			if h.cfg.Events {
				s.watch = h.events.open(s.topic)
				during(c, func() { h.events.close(s.topic) })
				_, s.shown = s.watch.after(0)
			}
			s.ticks = h.ticker(c)
			return nil, nil
		},
		channel.Info(func(s *topicState, ctx context.Context, c *channel.Channel, _ tick) error {
			s.ticks.Reset(h.every)
			h.try(h.ask(ctx, eventMembers, question{Topic: s.topic}))
			return c.Push("view", h.view(s))
		}),
	)
}

// view returns the presences of a topic, and its events since the last view. Presence.Fetch, which
// it may call, is user code.
func (h *Handler) view(s *topicState) topicView {
	v := topicView{Present: []present{}, Events: []event{}}
	for _, p := range h.cfg.Presences {
		v.Count += p.Count(s.topic)
		page, _ := p.Page(s.topic, "", maxMembers)
		for key, e := range page.All() {
			v.Present = append(v.Present, presentOf(key, e))
		}
	}
	v.Present = first(v.Present, maxMembers)
	if s.watch != nil {
		events, last := s.watch.after(s.shown)
		v.Events = first(events, maxEvents)
		v.Missed = last - s.shown - uint64(len(v.Events))
		s.shown = last
	}
	return v
}

func presentOf(key string, e presence.Entry) present {
	text, _ := e.MarshalJSON() // it never fails
	return present{clip(key, maxName), len(e.Metas), clip(string(text), maxPayload)}
}

var (
	errNotWatched = errors.New("live: no handler is watched")
	errReserved   = errors.New("live: the event is reserved")
)

// action handles an event of the page with which an operator acts.
func action[P any](h *Handler, event string, do func(context.Context, P) (what zerolog.LogObjectMarshaler, err error),
) channel.Option[liveState] {
	return channel.On(event, func(_ *liveState, ctx context.Context, _ *channel.Channel, p P) (push.Reply, error) {
		v := visitorFrom(ctx)
		if v.level < Operate {
			return push.NoReply, push.Reject("you may only look")
		}
		what, err := do(ctx, p)
		h.log.Info().Err(err).Str("action", event).Str("remote", v.remote).Object("of", what).Msg("live: operator acted")
		if err != nil { // only operators receive its text
			return push.NoReply, push.Reject(err.Error())
		}
		return push.OK(nil), nil
	})
}

// A disconnectAction ends a connection.
type disconnectAction struct {
	Connection string `json:"connection"`
}

// MarshalZerologObject is part of zerolog.LogObjectMarshaler.
func (a disconnectAction) MarshalZerologObject(e *zerolog.Event) {
	e.Str("connection", clip(a.Connection, maxName))
}

func (h *Handler) doDisconnect(ctx context.Context, a disconnectAction) (zerolog.LogObjectMarshaler, error) {
	if a.Connection == "" {
		return a, errors.New("live: no connection")
	}
	return a, h.ask(ctx, eventDisconnect, question{Connection: a.Connection})
}

// A kickAction removes a member from a topic.
type kickAction struct {
	Topic      string `json:"topic"`
	Connection string `json:"connection"`
	Reason     string `json:"reason"`
}

// MarshalZerologObject is part of zerolog.LogObjectMarshaler.
func (a kickAction) MarshalZerologObject(e *zerolog.Event) {
	e.Str("topic", clip(a.Topic, maxName)).Str("connection", clip(a.Connection, maxName))
}

func (h *Handler) doKick(ctx context.Context, a kickAction) (zerolog.LogObjectMarshaler, error) {
	if a.Connection == "" { // which would mean everybody
		return a, errors.New("live: no connection")
	}
	return a, h.kick(ctx, a.Topic, socket.Member{ConnectionID: a.Connection}, a.Reason)
}

// A broadcastAction sends an event to everyone on a topic.
type broadcastAction struct {
	Topic   string             `json:"topic"`
	Event   string             `json:"event"`
	Payload serializer.Payload `json:"payload"`
}

// MarshalZerologObject is part of zerolog.LogObjectMarshaler.
func (a broadcastAction) MarshalZerologObject(e *zerolog.Event) {
	e.Str("topic", clip(a.Topic, maxName)).Str("event", clip(a.Event, maxName))
}

func (h *Handler) doBroadcast(ctx context.Context, a broadcastAction) (zerolog.LogObjectMarshaler, error) {
	var object map[string]json.RawMessage
	switch {
	case a.Topic == "" || a.Event == "":
		return a, errors.New("live: a broadcast needs a topic and an event")
	case isReserved(a.Event):
		return a, errReserved
	case a.Payload.Decode(&object) != nil || object == nil && !a.Payload.IsZero():
		return a, errors.New("live: the payload must be an object")
	}
	return a, h.cfg.PubSub.BroadcastFrom(ctx, nil, a.Topic, a.Event, a.Payload)
}

// isReserved reports whether clients take an event for one of the protocol, of presence, or of this
// module's extensions.
func isReserved(event string) bool {
	for _, prefix := range []string{"phx_", "presence_", "chan_reply_", "$"} {
		if strings.HasPrefix(event, prefix) {
			return true
		}
	}
	return false
}
