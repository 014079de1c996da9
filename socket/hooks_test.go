package socket_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/history"
	"bennu.example/internal/wstest"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// hookLog collects the calls of hooks as lines.
type hookLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *hookLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// take returns the lines since the last call, when nothing runs any more.
func (l *hookLog) take() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

func (l *hookLog) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := l.take(); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

type (
	connectMark  struct{}
	callbackMark struct{}
)

// hooks returns hooks that write to the log. Each line begins with the name.
func (l *hookLog) hooks(name string) *socket.Hooks {
	of := func(ctx context.Context) string {
		info, ok := socket.InfoFrom(ctx)
		return fmt.Sprintf("info=%v", ok && info.ConnectionID != "")
	}
	err := func(e error) string {
		var p *channel.PanicError
		if errors.As(e, &p) {
			return "panic"
		}
		return fmt.Sprint(e)
	}
	channelEvent := func(hook string) func(context.Context, *socket.ChannelEvent) {
		return func(ctx context.Context, e *socket.ChannelEvent) {
			l.add("%s%s %s %s missed=%d reason=%q err=%s %s", name, hook,
				e.Route, e.Topic, e.Missed, e.Reason, err(e.Err), of(ctx))
		}
	}
	return &socket.Hooks{
		ConnectStart: func(ctx context.Context, r *socket.Request) context.Context {
			l.add("%sconnect %s", name, r.Transport)
			return context.WithValue(ctx, connectMark{}, "hook")
		},
		ConnectDone: func(ctx context.Context, _ *socket.Request, e error) {
			l.add("%sconnected mark=%v err=%s", name, ctx.Value(connectMark{}), err(e))
		},
		Refused: func(_ context.Context, e *socket.SocketEvent) {
			l.add("%srefused %s %s err=%v", name, e.Transport, e.Reason, e.Err != nil)
		},
		Opened: func(ctx context.Context, e *socket.SocketEvent) {
			l.add("%sopened %s %s mark=%v", name, e.Transport, e.Info.Subject, ctx.Value(connectMark{}))
		},
		Closed: func(_ context.Context, e *socket.SocketEvent) {
			l.add("%sclosed %s took=%v err=%v", name, e.Transport, e.Took >= 0, e.Err != nil)
		},
		Joined: channelEvent("joined"), Recovered: channelEvent("recovered"), Left: channelEvent("left"),
		JoinRefused: channelEvent("join refused"), Crashed: channelEvent("crashed"),
		CallbackStart: func(ctx context.Context, e *socket.ChannelEvent) context.Context {
			l.add("%sstart %s %q %q origin=%v %s", name, e.Callback.Kind, e.Callback.Name, e.Callback.Event,
				e.Callback.Origin != nil, of(ctx))
			return context.WithValue(ctx, callbackMark{}, e.Callback.Kind)
		},
		CallbackDone: func(ctx context.Context, e *socket.ChannelEvent) {
			l.add("%sdone %s mark=%v took=%v err=%s", name, e.Callback.Kind, ctx.Value(callbackMark{}), e.Took, err(e.Err))
		},
	}
}

// everyCallback is a handler with a callback of each kind. Its callbacks take a second.
func everyCallback(l *hookLog) *channel.Handler {
	say := func(what string, ctx context.Context) {
		time.Sleep(time.Second)
		l.add("%s: %v %v", what, ctx.Value(callbackMark{}), ctx.Value(connectMark{}))
	}
	return channel.Define(
		func(_ *nobody, ctx context.Context, _ *channel.Channel, p map[string]any) (any, error) {
			say("join", ctx)
			switch p["how"] {
			case "reject":
				return nil, push.Reject("no")
			case "panic":
				panic("join")
			}
			return nil, nil
		},
		channel.On("say", func(_ *nobody, ctx context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			say("event", ctx)
			return push.OK(nil), c.Broadcast("said", nil)
		}),
		channel.On("crash", func(*nobody, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			panic("event")
		}),
		channel.OnAny(func(
			_ *nobody, ctx context.Context, c *channel.Channel, _ string, _ serializer.Payload,
		) (push.Reply, error) {
			say("any", ctx)
			return push.NoReply, c.Send(7)
		}),
		channel.Intercept("said", func(_ *nobody, ctx context.Context, c *channel.Channel, p serializer.Payload) error {
			say("intercept", ctx)
			return c.Push("said", p)
		}),
		channel.Info(func(_ *nobody, ctx context.Context, _ *channel.Channel, _ int) error {
			say("info", ctx)
			return nil
		}),
		channel.Terminate(func(_ *nobody, ctx context.Context, _ *channel.Channel, _ error) { say("terminate", ctx) }),
	)
}

func TestHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l hookLog
		ps := pubsub.New(nil)
		defer ps.AddHooks(&pubsub.Hooks{
			BroadcastStart: func(ctx context.Context, topic, event string) context.Context {
				l.add("broadcast %s %s by %v", topic, event, ctx.Value(callbackMark{}))
				return context.WithValue(ctx, callbackMark{}, "broadcast")
			},
			Delivered: func(ctx context.Context, d pubsub.Delivery) {
				l.add("delivered %s to %d of %v", d.Event, d.Subscribers, ctx.Value(callbackMark{}))
			},
			BroadcastDone: func(_ context.Context, topic, event string, err error) {
				l.add("broadcast done %s %s %v", topic, event, err)
			},
		})()
		silent := zerolog.Nop()
		server := channeltest.Start(t, socket.Config{
			Channels: channel.Routes{"room:*": everyCallback(&l)}, PubSub: ps, Hooks: []*socket.Hooks{l.hooks("")},
			Logger: &silent, JoinRate: 5,
			Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
				if r.HTTP.URL.Query().Get("no") != "" {
					return nil, errors.New("not today")
				}
				r.ID = "ann"
				return ctx, nil
			},
		})
		server.AllowCrashes = true
		client := server.Connect(t, nil)
		l.expect(t, "connect", "connect websocket", "connected mark=hook err=<nil>",
			"opened websocket ann mark=hook")

		room := client.Join(t, "room:1", nil)
		l.expect(t, "join",
			`start join "" "" origin=false info=true`, "join: join hook",
			"done join mark=join took=1s err=<nil>",
			`joined room:* room:1 missed=0 reason="" err=<nil> info=true`)

		room.Push("say", nil).ExpectOK(t, nil)
		room.Expect(t, "said", nil)
		l.expect(t, "event and intercept",
			`start event "say" "say" origin=false info=true`, "event: event hook",
			"broadcast room:1 said by event", "delivered said to 1 of broadcast", "broadcast done room:1 said <nil>",
			"done event mark=event took=1s err=<nil>",
			`start intercept "said" "said" origin=true info=true`, "intercept: intercept hook",
			"done intercept mark=intercept took=1s err=<nil>")

		room.Push("other", nil)
		time.Sleep(3 * time.Second)
		l.expect(t, "any and info",
			`start event "*" "other" origin=false info=true`, "any: event hook",
			"done event mark=event took=1s err=<nil>",
			`start info "int" "" origin=false info=true`, "info: info hook",
			"done info mark=info took=1s err=<nil>")

		room.Push("crash", nil)
		room.ExpectCrash(t)
		room.ExpectJoin(t)
		lines := l.take()
		at := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(s, "left") })
		if want := []string{
			`start event "crash" "crash" origin=false info=true`, "done event mark=event took=0s err=panic",
			`crashed room:* room:1 missed=0 reason="channel crashed" err=panic info=true`,
			`start terminate "" "" origin=false info=true`, "terminate: terminate hook",
			"done terminate mark=terminate took=1s err=<nil>",
			`left room:* room:1 missed=0 reason="" err=panic info=true`,
		}; at < 0 || !slices.Equal(lines[:at+1], want) {
			t.Errorf("crash:\n got %q\nwant %q", lines, want)
		}

		room.Leave(t)
		if lines := l.take(); lines[len(lines)-1] != `left room:* room:1 missed=0 reason="" err=client left info=true` {
			t.Errorf("leave: %q", lines)
		}

		client.ExpectRefused(t, "room:1", map[string]string{"how": "reject"}, "no")
		l.expect(t, "rejected join", `start join "" "" origin=false info=true`, "join: join hook",
			"done join mark=join took=1s err=push: replied error: no",
			`join refused room:* room:1 missed=0 reason="rejected" err=push: replied error: no info=true`)
		client.ExpectRefused(t, "room:1", map[string]string{"how": "panic"}, "join crashed")
		l.expect(t, "crashed join", `start join "" "" origin=false info=true`, "join: join hook",
			"done join mark=join took=1s err=panic",
			`crashed room:* room:1 missed=0 reason="join crashed" err=panic info=true`,
			`join refused room:* room:1 missed=0 reason="crashed" err=panic info=true`)
		client.ExpectRefused(t, "nowhere", nil, "unmatched topic")
		l.expect(t, "unmatched topic",
			`join refused  nowhere missed=0 reason="unmatched topic" err=<nil> info=true`)

		resp, err := server.Network.HTTPClient().Get("http://bennu.test/socket/longpoll?vsn=2.0.0&no=1")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		l.expect(t, "refused", "connect longpoll", "connected mark=hook err=not today", "refused longpoll connect err=true")

		client.Close(t)
		l.expect(t, "close", "closed websocket took=true err=true")
	})
}

// allPanic returns hooks that all panic.
func allPanic() *socket.Hooks {
	channelEvent := func(context.Context, *socket.ChannelEvent) { panic("hook") }
	socketEvent := func(context.Context, *socket.SocketEvent) { panic("hook") }
	return &socket.Hooks{
		ConnectStart: func(context.Context, *socket.Request) context.Context { panic("hook") },
		ConnectDone:  func(context.Context, *socket.Request, error) { panic("hook") },
		Refused:      socketEvent, Opened: socketEvent, Closed: socketEvent, Dropped: socketEvent,
		Joined: channelEvent, Recovered: channelEvent, Left: channelEvent, JoinRefused: channelEvent, Crashed: channelEvent,
		CallbackStart: func(context.Context, *socket.ChannelEvent) context.Context { panic("hook") },
		CallbackDone:  channelEvent,
	}
}

// TestHooksThatPanic has hooks before and after others that all panic. The others are called in
// order, those that end something in reverse, and the clients notice nothing.
func TestHooksThatPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l hookLog
		ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}),
			history.Rules{"room:*": {Events: []string{"said"}}})
		panics := &pubsub.Hooks{
			BroadcastStart: func(context.Context, string, string) context.Context { panic("hook") },
			BroadcastDone:  func(context.Context, string, string, error) { panic("hook") },
			Delivered:      func(context.Context, pubsub.Delivery) { panic("hook") },
			Gap:            func(error) { panic("hook") },
			Health:         func(pubsub.Health) { panic("hook") },
			Inject:         func(context.Context) string { panic("hook") },
			Extract:        func(context.Context, string) context.Context { panic("hook") },
		}
		defer ps.AddHooks(panics)()
		logs := &logged{}
		logger := zerolog.New(logs)
		server := channeltest.Start(t, socket.Config{
			Channels: channel.Routes{"room:*": everyCallback(&l)}, PubSub: ps, Logger: &logger,
			Hooks: []*socket.Hooks{l.hooks("1 "), allPanic(), {}, l.hooks("2 ")},
		})
		client := server.Connect(t, nil)
		l.expect(t, "connect", "1 connect websocket", "2 connect websocket", "2 connected mark=hook err=<nil>",
			"1 connected mark=hook err=<nil>", "1 opened websocket  mark=hook", "2 opened websocket  mark=hook")
		room := client.Channel("room:1", nil)
		room.Channel.Resume(channel.ResumeConfig{})
		room.Join(t)
		l.expect(t, "join",
			`1 start join "" "" origin=false info=true`, `2 start join "" "" origin=false info=true`, "join: join hook",
			"2 done join mark=join took=1s err=<nil>", "1 done join mark=join took=1s err=<nil>",
			`1 joined room:* room:1 missed=0 reason="" err=<nil> info=true`,
			`2 joined room:* room:1 missed=0 reason="" err=<nil> info=true`,
			`1 recovered room:* room:1 missed=0 reason="new" err=<nil> info=true`,
			`2 recovered room:* room:1 missed=0 reason="new" err=<nil> info=true`)
		room.Push("say", nil).ExpectOK(t, nil)
		room.Expect(t, "said", nil)
		l.take()

		client.Disconnect(t)
		server.Broadcast(t, "room:1", "said", nil)
		server.Broadcast(t, "room:1", "said", nil)
		client.Reconnect(t)
		room.Expect(t, "said", nil)
		room.Expect(t, "said", nil)
		lines := l.take()
		if want := `1 recovered room:* room:1 missed=2 reason="" err=<nil> info=true`; !slices.Contains(lines, want) {
			t.Errorf("no %q in %q", want, lines)
		}
		room.Leave(t)
		client.Close(t)
		if n := strings.Count(logs.String(), `"message":"hook crashed"`); n == 0 {
			t.Error("no panic was logged")
		}
	})
}

// TestJoinGivenUpNotifiesHooks has a join callback that takes longer than it may.
func TestJoinGivenUpNotifiesHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l hookLog
		silent := zerolog.Nop()
		server := channeltest.Start(t, socket.Config{
			Channels: channel.Routes{"room:*": everyCallback(&l)}, Hooks: []*socket.Hooks{l.hooks("")},
			JoinTimeout: 500 * time.Millisecond, Logger: &silent,
		})
		server.AllowCrashes = true
		client := server.Connect(t, nil)
		l.take()
		client.ExpectRefused(t, "room:1", nil, "join crashed")
		time.Sleep(5 * time.Second)
		l.expect(t, "join", `start join "" "" origin=false info=true`,
			`crashed room:* room:1 missed=0 reason="join given up" err=join took too long: over 500ms info=true`,
			`join refused room:* room:1 missed=0 reason="crashed" err=<nil> info=true`,
			"join: join hook", "done join mark=join took=1s err=<nil>",
			`start terminate "" "" origin=false info=true`, "terminate: terminate hook",
			"done terminate mark=terminate took=1s err=<nil>")
	})
}

// TestDroppedNotifiesHooks checks that the hooks learn of every frame that was dropped for a client
// that does not read.
func TestDroppedNotifiesHooks(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	counts := map[string]uint64{}
	first := make(chan struct{})
	s := serve(t, socket.Config{
		MaxQueue: 10_000, OnSlow: transport.DropOldest,
		Hooks: []*socket.Hooks{{Dropped: func(_ context.Context, e *socket.SocketEvent) {
			mu.Lock()
			defer mu.Unlock()
			if len(counts) == 0 {
				close(first)
			}
			counts[e.Transport+" "+e.Reason] += e.Count
		}}},
	})
	stalled, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if err := stalled.Send([]byte(`["1","1","room:1","phx_join",{}]`)); err != nil {
		t.Fatal(err)
	}
	if _, err := stalled.Text(); err != nil {
		t.Fatal(err)
	}
	pad := map[string]string{"pad": strings.Repeat("x", 4000)}
	for notified := false; !notified; {
		if err := s.h.PubSub().Broadcast(t.Context(), "room:1", "tick", pad); err != nil {
			t.Fatal(err)
		}
		select {
		case <-first:
			notified = true
		default:
		}
	}
	_ = stalled.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.h.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if n := s.h.Stats().WebSocket.Dropped; len(counts) != 1 || counts["websocket dropped"] != n {
		t.Errorf("the hooks were notified of %v, but %d frames were dropped", counts, n)
	}
}

// TestAroundWrapsEveryCallback has two middlewares around all callbacks of a channel.
func TestAroundWrapsEveryCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l hookLog
		around := func(name string) channel.Option[nobody] {
			return channel.Around(func(
				_ *nobody, ctx context.Context, _ *channel.Channel, cb *channel.Callback, next func(context.Context) error,
			) error {
				l.add("%s %s %q %q %s", name, cb.Kind, cb.Name, cb.Event, cb.Payload.Bytes())
				err := next(context.WithValue(ctx, callbackMark{}, name))
				l.add("%s %v", name, err)
				return err
			})
		}
		room := channel.Define(
			func(_ *nobody, ctx context.Context, _ *channel.Channel, ok bool) (any, error) {
				if !ok {
					return nil, push.Reject("no")
				}
				return map[string]any{"mark": ctx.Value(callbackMark{})}, nil
			},
			around("a"), around("b"),
			channel.Use[nobody](func(next channel.Func) channel.Func {
				return func(ctx context.Context, c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
					l.add("use")
					return next(ctx, c, event, p)
				}
			}),
			channel.On("say", func(_ *nobody, _ context.Context, c *channel.Channel, n int) (push.Reply, error) {
				return push.OK(n), c.Send(7)
			}),
			channel.Info(func(*nobody, context.Context, *channel.Channel, int) error { return nil }),
			channel.Terminate(func(*nobody, context.Context, *channel.Channel, error) {}),
		)
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": room}})
		client := server.Connect(t, nil)
		client.ExpectRefused(t, "room:1", false, "no")
		l.expect(t, "refused", `a join "" "" false`, `b join "" "" false`,
			"b push: replied error: no", "a push: replied error: no")
		in := client.Channel("room:1", true)
		if got := in.Join(t).Bytes(); string(got) != `{"mark":"b"}` {
			t.Errorf("joined with %s", got)
		}
		in.Push("say", 1).ExpectOK(t, 1)
		in.Leave(t)
		l.expect(t, "the rest", `a join "" "" true`, `b join "" "" true`, "b <nil>", "a <nil>",
			`a event "say" "say" 1`, `b event "say" "say" 1`, "use", "b <nil>", "a <nil>",
			`a info "int" "" `, `b info "int" "" `, "b <nil>", "a <nil>",
			`a terminate "" "" `, `b terminate "" "" `, "b <nil>", "a <nil>")
	})
}
