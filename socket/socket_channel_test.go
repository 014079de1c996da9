package socket

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

const (
	testConnection = "01m8kjt9g0v3m8r5e3j7t9y1b6"
	testClient     = "9f2c41d07b3e4a55b1c8e6d90a7f3321"
	// beginning is the first millisecond in a synctest bubble.
	beginning = 946_684_800_000
)

// newNamedLine is newLine with an identity and a log at debug level.
func newNamedLine(t *testing.T, cfg Config) *line {
	l := &line{t: t, log: new(strings.Builder)}
	logger := zerolog.New(l)
	cfg.Logger = &logger
	l.h = NewHandler(cfg)
	l.s = l.h.open(l, serializer.V2(), identity{
		parent: context.Background(), connection: testConnection, client: testClient,
	})
	return l
}

// end ends the connection and the handler.
func (l *line) end() {
	l.t.Helper()
	l.s.Closed(nil)
	if err := l.h.Shutdown(context.Background()); err != nil {
		l.t.Error(err)
	}
}

func socketJoined(ref string, now int64) string {
	return answer(ref, "$socket", "ok", fmt.Sprintf(`{"id":%q,"client":%q,"now":%d,"version":%q,"limits":`+
		`{"message":1048576,"queue":1048576,"channels":100,"topic":1024,"joins":500,"pushes":0,"idle_ms":60000}}`,
		testConnection, testClient, now, Version))
}

// socketReplied returns a reply to a push on the channel that was joined with a ref.
func socketReplied(joinRef, ref, status, response string) string {
	return fmt.Sprintf(`["%s","%s","$socket","phx_reply",{"status":"%s","response":%s}]`, joinRef, ref, status, response)
}

// TestSocketChannel plays the channel $socket: its join, the server's time, pushes that it does not
// know, a second join, and a leave.
func TestSocketChannel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newNamedLine(t, Config{Channels: rooms(nil, make(chan error, 10))})
		defer l.end()
		l.send(`["1","1","$socket","phx_join",{"version":"bennu-go/0.9.0","other":[1]}]`)
		l.want(socketJoined("1", beginning))
		if l.logged(`"version":"bennu-go/0.9.0"`) != 1 {
			t.Errorf("the log lacks the client's version:\n%s", l.log)
		}
		time.Sleep(1500 * time.Millisecond) // in virtual time
		l.send(`["1","2","$socket","time",{}]`, `["1","3","$socket","time",null]`, `[null,"4","$socket","time",{}]`)
		now := fmt.Sprintf(`{"now":%d}`, beginning+1500)
		l.want(socketReplied("1", "2", "ok", now), socketReplied("1", "3", "ok", now), socketReplied("1", "4", "ok", now))

		l.send(`["1","5","$socket","y",{}]`, `["1","6","$socket","x",{}]`, `["1",null,"$socket","x",{}]`)
		unknown := `{"reason":"unknown event"}`
		l.want(socketReplied("1", "5", "error", unknown), socketReplied("1", "6", "error", unknown),
			`["1",null,"$socket","phx_reply",{"status":"error","response":{"reason":"unknown event"}}]`)

		l.send(join("7", "$socket"))
		l.want(socketJoined("7", beginning+1500), `["1","1","$socket","phx_close",{}]`)
		l.send(`["7","8","$socket","phx_leave",{}]`)
		l.want(socketReplied("7", "8", "ok", "{}"), `["7","7","$socket","phx_close",{}]`)
		l.send(`["7","9","$socket","time",{}]`)
		l.want(`[null,"9","$socket","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`)
		l.send(`["9","9","$socket","phx_join",[]]`, `["9","9","$socket","phx_join",{"version":1}]`)
		l.want(refusedFor("9", "$socket", "invalid payload"), refusedFor("9", "$socket", "invalid payload"))
	})
}

func TestSocketChannelOfEveryVersion(t *testing.T) {
	t.Parallel()
	for _, ser := range serializer.Default() {
		t.Run(ser.Version(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newNamedLine(t, Config{Channels: rooms(nil, make(chan error, 10))})
				defer l.end()
				l.s.ser = ser
				one := serializer.StringRef("1")
				for _, m := range []serializer.Message{
					{JoinRef: one, Ref: one, Topic: "$socket", Event: "phx_join"},
					{JoinRef: one, Ref: serializer.StringRef("2"), Topic: "$socket", Event: "time"},
				} {
					op, data, err := ser.Append(nil, &m)
					if err != nil {
						t.Fatal(err)
					}
					if err := l.s.Receive(op, data); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				for _, frame := range l.frames {
					op := serializer.OpText
					if ser == serializer.V3() {
						op = serializer.OpBinary
					}
					m, err := ser.ParseClient(op, []byte(frame))
					var got struct{ Now int64 }
					if err != nil || m.Status != "ok" || m.Payload.Decode(&got) != nil || got.Now != beginning {
						t.Errorf("%q: %+v, %v", frame, m, err)
					}
				}
				if len(l.frames) != 2 {
					t.Errorf("%d frames", len(l.frames))
				}
			})
		})
	}
}

// TestSocketTimeRate checks the bound of 8 pushes at once and 2 per second.
func TestSocketTimeRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newNamedLine(t, Config{Channels: rooms(nil, make(chan error, 10))})
		defer l.end()
		l.send(join("1", "$socket"))
		l.want(socketJoined("1", beginning))
		push := `["1","2","$socket","time",{}]`
		flood := func(want int) {
			t.Helper()
			for range 10 {
				l.send(push)
			}
			synctest.Wait()
			got := 0
			for _, f := range l.frames {
				switch {
				case strings.Contains(f, `"ok"`):
					got++
				case f != socketReplied("1", "2", "error", `{"reason":"rate"}`):
					t.Errorf("got %s", f)
				}
			}
			if l.frames = nil; got != want {
				t.Errorf("%d of 10 pushes succeeded, want %d", got, want)
			}
		}
		flood(8)
		flood(0)
		time.Sleep(time.Second) // in virtual time
		flood(2)
		l.send(join("3", "$socket")) // a new join does not help for long: joins have their rate, too
		time.Sleep(time.Minute)
		l.frames = nil
	})
}

func TestNoSocketChannel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		routes := rooms(nil, make(chan error, 10))
		routes["*"] = routes["room:*"]
		l := newNamedLine(t, Config{Channels: routes, NoSocketChannel: true})
		defer l.end()
		l.send(join("1", "$socket"), join("2", "$other"), join("3", "other"))
		l.want(`[null,"1","$socket","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`,
			`[null,"2","$other","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`,
			accepted("3", "other"))
	})
}

// TestSocketChannelDoesNotCount checks that the channel is not one of Config.MaxChannels, whether
// it is joined first or last.
func TestSocketChannelDoesNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newNamedLine(t, Config{Channels: rooms(nil, make(chan error, 10)), MaxChannels: 1})
		defer l.end()
		l.send(join("1", "room:1"), join("2", "room:2"), join("3", "$socket"), join("4", "room:2"))
		joined := strings.Replace(socketJoined("3", beginning), `"channels":100`, `"channels":1`, 1)
		const full = "too many channels joined"
		l.want(accepted("1", "room:1"), refusedFor("2", "room:2", full), joined, refusedFor("4", "room:2", full))
		l.send(`["1","5","room:1","phx_leave",{}]`)
		l.want(`["1","5","room:1","phx_reply",{"status":"ok","response":{}}]`, `["1","1","room:1","phx_close",{}]`)
		l.send(join("6", "room:2"), join("7", "room:1"))
		l.want(accepted("6", "room:2"), refusedFor("7", "room:1", full))
	})
}

// TestSocketChannelHasNoTopic checks that nobody can broadcast on the topic $socket, and that it is
// not recorded.
func TestSocketChannelHasNoTopic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"*": {}})
		l := newNamedLine(t, Config{Channels: rooms(nil, make(chan error, 10)), PubSub: ps})
		defer l.end()
		l.send(`["1","1","$socket","phx_join",{"$history":{}}]`)
		l.want(strings.Replace(socketJoined("1", beginning), `"response":{`,
			`"response":{"$history":{"recovered":false,"missed":0,"why":"off"},`, 1))
		if n := ps.Subscribers("$socket"); n != 0 {
			t.Errorf("%d subscribers", n)
		}
		for _, event := range []string{"expired", "denied", "$kick"} {
			if err := ps.Broadcast(t.Context(), "$socket", event, nil); err != nil {
				t.Error(err)
			}
		}
		l.want()
	})
}

// TestInfoFrom checks what callbacks learn about their connection.
func TestInfoFrom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		want := Info{
			ConnectionID: testConnection, ClientID: testClient, Subject: "user:ann", Version: Version, Server: true,
			Limits: Limits{
				Message: 1 << 20, Queue: 1 << 20, Channels: 100, Topic: 1024, Joins: 500, Idle: time.Minute,
			},
		}
		calls := 0
		check := func(ctx context.Context) {
			calls++
			if info, ok := InfoFrom(ctx); !ok || info != want {
				t.Errorf("%+v, %v", info, ok)
			}
			if ctx.Value(key{}) != "value" {
				t.Error("a value of Connect is missing")
			}
		}
		room := channel.Define(func(_ *member, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
			check(ctx)
			return nil, nil
		},
			channel.On("x", func(_ *member, ctx context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				check(ctx)
				check(c.Context())
				return push.NoReply, nil
			}),
			channel.Terminate(func(_ *member, ctx context.Context, _ *channel.Channel, _ error) { check(ctx) }))
		l := &line{t: t, log: new(strings.Builder)}
		logger := zerolog.New(l)
		l.h = NewHandler(Config{Channels: channel.Routes{"room": room}, Logger: &logger})
		l.s = l.h.open(l, serializer.V2(), identity{
			parent: context.WithValue(context.Background(), key{}, "value"), id: l.h.watch("user:ann"),
			connection: testConnection, client: testClient,
		})
		l.send(join("1", "room"), `["1","2","room","x",{}]`)
		l.want(accepted("1", "room"))
		l.end()
		if calls != 4 {
			t.Errorf("%d calls", calls)
		}
		if info, ok := InfoFrom(context.Background()); ok {
			t.Errorf("without a connection: %+v", info)
		}
	})
}

func TestLimitsOfLongPoll(t *testing.T) {
	t.Parallel()
	cfg := Config{MaxMessage: 5, MaxQueue: 6, JoinRate: -1, MessageRate: 7, IdleTimeout: time.Second}
	cfg.LongPoll.MaxMessage = 8
	h := NewHandler(cfg)
	defer h.Shutdown(context.Background())
	want := Limits{Message: 8, Queue: 6, Channels: 100, Topic: 1024, Pushes: 7}
	if got := h.limits(true); got != want {
		t.Errorf("long poll: %+v", got)
	}
	want.Message, want.Idle = 5, time.Second
	if got := h.limits(false); got != want {
		t.Errorf("WebSocket: %+v", got)
	}
}

// TestReservedRoutes checks that no program serves the topics of the socket itself.
func TestReservedRoutes(t *testing.T) {
	t.Parallel()
	for _, route := range []string{"$socket", "$", "$*", "$room:*"} {
		func() {
			defer func() {
				if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "reserved") {
					t.Errorf("route %s: %v", route, v)
				}
			}()
			NewHandler(Config{Channels: channel.Routes{route: rooms(nil, nil)["room:*"]}})
		}()
	}
}
