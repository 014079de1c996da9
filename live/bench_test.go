package live

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"bennu.example/channel"
	"bennu.example/internal/cputime"
	"bennu.example/internal/wstest"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// BenchmarkObserver measures an echo, with 2,000 topics and 200 other connections: without the
// page's hooks, with them, and while a page is open.
func BenchmarkObserver(b *testing.B) {
	for _, bench := range []struct {
		name         string
		hooks, pages bool
	}{{"without", false, false}, {"hooks", true, false}, {"open", true, true}} {
		b.Run(bench.name, func(b *testing.B) {
			addr := benchServer(b, bench.hooks)
			if bench.pages {
				ctx := context.Background()
				client, err := socket.Dial(ctx, "http://"+addr+"/live/socket", nil)
				if err != nil {
					b.Fatal(err)
				}
				defer client.Close(ctx)
				if _, err := client.Channel(topicLive, nil).Join().Wait(ctx); err != nil {
					b.Fatal(err)
				}
			}
			c := benchClient(b, addr, "room:own")
			frame := []byte(`["1","2","room:own","echo",{"body":"hello"}]`)
			b.ReportAllocs()
			begun := cputime.Used()
			for b.Loop() {
				if err := c.Send(frame); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Text(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cputime.Used()-begun).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// benchServer serves rooms and a page, and returns its address.
func benchServer(b *testing.B, hooks bool) string {
	ps := pubsub.New(nil)
	page, err := NewHandler(Config{PubSub: ps, Authorize: func(*http.Request) Level { return View }})
	if err != nil {
		b.Fatal(err)
	}
	type none struct{}
	cfg := socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": channel.Define(
		func(*none, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("echo", func(_ *none, _ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}),
	)}}
	if hooks {
		cfg.Hooks = []*socket.Hooks{page.Hooks()}
	}
	sockets := socket.NewHandler(cfg)
	page.Watch(sockets)
	mux := http.NewServeMux()
	mux.Handle("/socket/", sockets)
	mux.Handle("/live/", page)
	server := httptest.NewServer(mux)
	b.Cleanup(func() {
		for _, shutdown := range []func(context.Context) error{page.Shutdown, sockets.Shutdown} {
			if err := shutdown(context.Background()); err != nil {
				b.Error(err)
			}
		}
		server.Close()
	})
	addr := server.Listener.Addr().String()
	for i := range 2000 {
		ps.Subscribe(fmt.Sprint("other:", i), silent{})
		if i < 200 {
			benchClient(b, addr, fmt.Sprint("room:", i))
		}
	}
	return addr
}

func benchClient(b *testing.B, addr, topic string) *wstest.Conn {
	c, err := wstest.Dial(addr, "/socket/websocket?vsn=2.0.0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.Send([]byte(`["1","1","` + topic + `","phx_join",{}]`)); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Text(); err != nil {
		b.Fatal(err)
	}
	return c
}

// BenchmarkSummary measures what a node does for each summary, at most once in a second.
func BenchmarkSummary(b *testing.B) {
	for _, topics := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			h := newPage(b, false)
			for i := range topics {
				h.cfg.PubSub.Subscribe(fmt.Sprint("topic:", i), silent{})
			}
			b.ReportAllocs()
			for b.Loop() {
				h.summarize()
			}
		})
	}
}
