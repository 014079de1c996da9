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
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// What the clients and the server say to each other.
type (
	// hello are the params of a join. A life is one join; its number is told by the clock of [book].
	hello struct {
		Name string `json:"name"`
		Life uint64 `json:"life"`
	}
	// said is what a client says, and what everyone in the room hears. N counts what was said in one life; the server sets it and the first two.
	said struct {
		From string `json:"from"`
		Life uint64 `json:"life"`
		N    uint64 `json:"n"`
		Seq  uint64 `json:"seq"`  // counts what this client said in this room in all its lives
		Roll uint64 `json:"roll"` // the number of the roll call that this answers, or 0
		Pad  string `json:"pad"`
	}
	// tick is pushed to one client. N counts those of one life.
	tick struct {
		N uint64 `json:"n"`
	}
	// answer is the reply to most things.
	answer struct {
		Life uint64 `json:"life"`
		N    uint64 `json:"n"`
	}
)

const rooms = 3

func room(i int) string { return fmt.Sprintf("room:%d", i%rooms) }

// seated is a client in a room, at the server.
type seated struct {
	hello
	who         *presence.Presence
	said, ticks uint64
}

type arrived struct{} // to itself: tracking is for those who have joined

func (s *seated) arrived(_ context.Context, c *channel.Channel, _ arrived) error {
	err := s.who.Push(c)
	if err == nil {
		_, err = s.who.Track(c, s.Name, hello{Life: s.Life})
	}
	if errors.Is(err, channel.ErrClosed) || errors.Is(err, presence.ErrClosed) { // it has left, or the server goes
		return nil
	}
	return err
}

func (s *seated) say(_ context.Context, c *channel.Channel, m said) (push.Reply, error) {
	s.said++
	m.From, m.Life, m.N = s.Name, s.Life, s.said
	if err := c.Broadcast("said", m); err != nil && !errors.Is(err, channel.ErrClosed) {
		return push.NoReply, err
	}
	return push.OK(answer{s.Life, s.said}), nil
}

func (s *seated) tick(_ context.Context, c *channel.Channel, n int) (push.Reply, error) {
	for range n {
		s.ticks++
		if err := c.Push("tick", tick{s.ticks}); err != nil && !errors.Is(err, channel.ErrClosed) {
			return push.NoReply, err
		}
	}
	return push.OK(answer{s.Life, s.ticks}), nil
}

func (s *seated) echo(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
	return push.OK(p), nil
}

func (s *seated) refuse(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
	return push.NoReply, push.Reject("as asked")
}

func (s *seated) ignore(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
	return push.NoReply, nil
}

func (s *seated) crash(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
	panic("as asked")
}

// house is the server: a handler for those who must hear everything, and one whose slow clients miss some, which share their rooms.
type house struct {
	strict, lossy *socket.Handler
	who           *presence.Presence
}

func newHouse() *house {
	ps := pubsub.New(nil)
	who := presence.New(ps, nil)
	join := func(s *seated, _ context.Context, c *channel.Channel, h hello) (any, error) {
		s.hello, s.who = h, who
		return answer{Life: h.Life}, c.Send(arrived{})
	}
	rooms := channel.Define(join, channel.Info((*seated).arrived),
		channel.On("say", (*seated).say), channel.On("tick", (*seated).tick), channel.On("echo", (*seated).echo),
		channel.On("refuse", (*seated).refuse), channel.On("ignore", (*seated).ignore), channel.On("crash", (*seated).crash))
	cfg := socket.Config{
		Channels: channel.Routes{"room:*": rooms},
		PubSub:   ps,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var h hello
			err := r.Params.Decode(&h)
			r.ID = "user:" + h.Name
			return ctx, err
		},
		// Short, so that what ends by them does so during a test.
		WebSocket: transport.WebSocketConfig{Compress: true, WriteTimeout: 2 * time.Second, CloseTimeout: time.Second, IdleTimeout: 10 * time.Second},
		LongPoll:  transport.LongPollConfig{Window: 500 * time.Millisecond},
		MaxQueue:  256 << 10,
		Drain:     socket.Drain{Batch: 5, Interval: 100 * time.Millisecond},
	}
	h := &house{strict: socket.NewHandler(cfg), who: who}
	cfg.OnSlow, cfg.MaxQueue = transport.DropOldest, 16<<10
	h.lossy = socket.NewHandler(cfg)
	return h
}

// state is what the server tells of itself.
type state struct {
	size
	Strict, Lossy socket.Stats
	Present       map[string]presence.State // by room
}

func (h *house) state() state {
	s := state{size: measure(true), Strict: h.strict.Stats(), Lossy: h.lossy.Stats(), Present: map[string]presence.State{}}
	for i := range rooms {
		s.Present[room(i)] = h.who.List(room(i))
	}
	return s
}

func (h *house) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/strict/", h.strict)
	mux.Handle("/lossy/", h.lossy)
	mux.HandleFunc("/state", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(h.state()) // who asked is gone
	})
	mux.HandleFunc("/disconnect", func(w http.ResponseWriter, r *http.Request) {
		if err := h.strict.Disconnect(r.Context(), "user:"+r.FormValue("name")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// drainTime is how long the server may take to end in good order.
const drainTime = 20 * time.Second

// serve runs the server until SIGTERM, or until its parent is gone. Its address is the first line of its output, and its state at its end the second.
func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil { // a connection of somebody else's may have got the port meanwhile
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	h := newHouse()
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
