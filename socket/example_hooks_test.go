package socket_test

import (
	"context"
	"expvar"
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/socket"
)

// Hooks that count. Read the counts with expvar, which serves them on /debug/vars of
// http.DefaultServeMux.
func ExampleHooks() {
	var (
		refused = new(expvar.Map).Init() // by reason, one of a few
		crashes = new(expvar.Map).Init() // by route
		events  = new(expvar.Map).Init() // by the name that the program has defined
	)
	counters := channel.Define((*counter).join, channel.On("add", (*counter).add))
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"counter:*": counters},
		Hooks: []*socket.Hooks{{
			Refused: func(_ context.Context, e *socket.SocketEvent) { refused.Add(e.Transport+" "+e.Reason, 1) },
			Crashed: func(_ context.Context, e *socket.ChannelEvent) { crashes.Add(e.Route, 1) },
			CallbackDone: func(_ context.Context, e *socket.ChannelEvent) {
				if e.Callback.Kind == "event" {
					events.Add(e.Route+" "+e.Callback.Name, 1)
				}
			},
		}},
	})
	server := httptest.NewServer(handler)
	defer server.Close()
	ctx := context.Background()
	defer handler.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	mine := client.Channel("counter:1", nil)
	mine.Join()
	for range 2 {
		if _, err := channel.Call[int](ctx, mine, "add", 1); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(events)

	// A page of another site may not connect.
	r := httptest.NewRequest(http.MethodGet, "/longpoll?vsn=2.0.0", nil)
	r.Header.Set("Origin", "https://other.example")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	fmt.Println(refused, crashes)
	// Output:
	// {"counter:* add": 2}
	// {"longpoll origin": 1} {}
}
