package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// The messages between the clients and the server.
type (
	// joinParams are the params of a join. A generation is one join of a client; the clock of
	// [report] provides its number.
	joinParams struct {
		Name       string `json:"name"`
		Generation uint64 `json:"generation"`
	}
	// message is broadcast to the room. N counts the messages of one generation. The server sets N,
	// From and Generation.
	message struct {
		From       string `json:"from"`
		Generation uint64 `json:"generation"`
		N          uint64 `json:"n"`
		Seq        uint64 `json:"seq"`  // counts the messages of this client in this room, in all generations
		Roll       uint64 `json:"roll"` // number of the roll call that this answers, or 0
		Pad        string `json:"pad"`
	}
	// tick is pushed to one client. N counts the ticks of one generation.
	tick struct {
		N uint64 `json:"n"`
	}
	// answer is the reply to most pushes.
	answer struct {
		Generation uint64 `json:"generation"`
		N          uint64 `json:"n"`
	}
)

const rooms = 3

func room(i int) string { return fmt.Sprintf("room:%d", i%rooms) }

// roomChannel is the server's state of a client in a room.
type roomChannel struct {
	joinParams
	who         *presence.Presence
	sent, ticks uint64
}

type afterJoin struct{} // sent to itself, because presence requires a joined channel

func (s *roomChannel) afterJoin(_ context.Context, c *channel.Channel, _ afterJoin) error {
	err := s.who.Push(c)
	if err == nil {
		_, err = s.who.Track(c, s.Name, joinParams{Generation: s.Generation})
	}
	if errors.Is(err, channel.ErrClosed) || errors.Is(err, presence.ErrClosed) {
		return nil // the client left, or the server is shutting down
	}
	return err
}

func (s *roomChannel) say(_ context.Context, c *channel.Channel, m message) (push.Reply, error) {
	s.sent++
	m.From, m.Generation, m.N = s.Name, s.Generation, s.sent
	if err := c.Broadcast("message", m); err != nil && !errors.Is(err, channel.ErrClosed) {
		return push.NoReply, err
	}
	return push.OK(answer{s.Generation, s.sent}), nil
}

func (s *roomChannel) tick(_ context.Context, c *channel.Channel, n int) (push.Reply, error) {
	for range n {
		s.ticks++
		if err := c.Push("tick", tick{s.ticks}); err != nil && !errors.Is(err, channel.ErrClosed) {
			return push.NoReply, err
		}
	}
	return push.OK(answer{s.Generation, s.ticks}), nil
}

func (s *roomChannel) echo(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
	return push.OK(p), nil
}

func (s *roomChannel) refuse(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
	return push.NoReply, push.Reject("as requested")
}

func (s *roomChannel) ignore(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
	return push.NoReply, nil
}

func (s *roomChannel) crash(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
	panic("as requested")
}

// soakServer has two handlers that share their rooms: a strict one, which may not drop messages,
// and a lossy one, which drops messages for slow clients.
type soakServer struct {
	strict, lossy *socket.Handler
	who           *presence.Presence
}

func newServer() *soakServer {
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{logTopic: logKeep})
	who := presence.New(ps, presence.Config{})
	join := func(s *roomChannel, _ context.Context, c *channel.Channel, h joinParams) (any, error) {
		s.joinParams, s.who = h, who
		return answer{Generation: h.Generation}, c.Send(afterJoin{})
	}
	rooms := channel.Define(join, channel.Info((*roomChannel).afterJoin),
		channel.On("say", (*roomChannel).say),
		channel.On("tick", (*roomChannel).tick),
		channel.On("echo", (*roomChannel).echo),
		channel.On("refuse", (*roomChannel).refuse),
		channel.On("ignore", (*roomChannel).ignore),
		channel.On("crash", (*roomChannel).crash))
	logs := channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("record", func(_ *struct{}, _ context.Context, c *channel.Channel, m logMessage) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("record", m)
		}))
	cfg := socket.Config{
		Channels: channel.Routes{"room:*": rooms, logTopic: logs},
		PubSub:   ps,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var h joinParams
			err := r.Params.Decode(&h)
			r.ID = "user:" + h.Name
			return ctx, err
		},
		// Short timeouts, so that they expire during a test.
		WebSocket: websocket.Config{
			Compress: true, WriteTimeout: 2 * time.Second, CloseTimeout: time.Second, IdleTimeout: 10 * time.Second,
		},
		LongPoll: longpoll.Config{Window: 500 * time.Millisecond},
		MaxQueue: 256 << 10,
		Drain: socket.Drain{
			Batch: 5, Interval: 100 * time.Millisecond, Notice: 300 * time.Millisecond, Spread: time.Second,
		},
	}
	h := &soakServer{strict: socket.NewHandler(cfg), who: who}
	cfg.OnSlow, cfg.MaxQueue = transport.DropOldest, 16<<10
	h.lossy = socket.NewHandler(cfg)
	return h
}

// state is the server's description of itself.
type state struct {
	size
	Strict, Lossy socket.Stats
	Present       map[string]presence.State // by topic
}

func (h *soakServer) state() state {
	s := state{size: measure(true), Strict: h.strict.Stats(), Lossy: h.lossy.Stats(), Present: map[string]presence.State{}}
	for i := range rooms {
		s.Present[room(i)] = h.who.List(room(i))
	}
	return s
}

func (h *soakServer) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/strict/", h.strict)
	mux.Handle("/lossy/", h.lossy)
	mux.HandleFunc("/state", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(h.state()) // the requester has disconnected
	})
	mux.HandleFunc("/disconnect", func(w http.ResponseWriter, r *http.Request) {
		if err := h.strict.Disconnect(r.Context(), "user:"+r.FormValue("name")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// drainTime bounds the shutdown of the server.
const drainTime = 20 * time.Second

// serve runs the server until SIGTERM or until its parent exits. The first line of its output is
// its address. The second is its state after the shutdown.
func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil { // another connection may have taken the port
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	h := newServer()
	server := &http.Server{Handler: h.routes(), ReadHeaderTimeout: 5 * time.Second}
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Println(l.Addr())
	select {
	case err := <-served:
		return err
	case <-ended.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	err = errors.Join(h.strict.Shutdown(ctx), h.lossy.Shutdown(ctx), h.who.Close(ctx), server.Shutdown(ctx))
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(h.state()))
}
