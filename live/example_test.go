package live_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"bennu.example/channel"
	"bennu.example/live"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// A page beside the sockets of a program. Only who knows the password sees it.
func Example() {
	ps := pubsub.New(nil)
	page, err := live.NewHandler(live.Config{
		PubSub: ps,
		Authorize: func(r *http.Request) live.Level {
			if _, password, _ := r.BasicAuth(); password == "secret" {
				return live.Operate
			}
			return live.None
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer page.Shutdown(context.Background())
	sockets := socket.NewHandler(socket.Config{
		PubSub: ps, Hooks: []*socket.Hooks{page.Hooks()}, Channels: channel.Routes{"room:*": room()},
	})
	defer sockets.Shutdown(context.Background())
	page.Watch(sockets)
	mux := http.NewServeMux()
	mux.Handle("/socket/", sockets)
	mux.Handle("/admin/live/", page)

	for _, password := range []string{"", "secret"} {
		r := httptest.NewRequest(http.MethodGet, "/admin/live/", nil)
		r.SetBasicAuth("ann", password)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Body)
		fmt.Println(w.Code, strings.Contains(string(body), "<title>Bennu live</title>"))
	}
	// Output:
	// 403 false
	// 200 true
}

func room() *channel.Handler {
	return channel.Define(func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) {
		return nil, nil
	})
}

// There is no page without Authorize.
func ExampleNewHandler() {
	_, err := live.NewHandler(live.Config{PubSub: pubsub.New(nil)})
	fmt.Println(err)
	// Output: live: Config has no Authorize
}

// Presences and events show more of a topic. A proxy that terminates TLS must be named.
func ExampleConfig() {
	ps := pubsub.New(nil)
	who := presence.New(ps, presence.Config{})
	defer who.Close(context.Background())
	page, err := live.NewHandler(live.Config{
		PubSub: ps, Presences: []*presence.Presence{who}, Events: true, Name: "paris-1",
		Hosts: []string{"admin.example.com"}, TrustedProxies: []string{"10.0.0.0/8"},
		Authorize: func(*http.Request) live.Level { return live.View },
	})
	if err == nil {
		err = page.Shutdown(context.Background())
	}
	fmt.Println(err)
	// Output: <nil>
}

// A program that knows the roles of its users chooses the level.
func ExampleLevel() {
	levelOf := func(role string) live.Level {
		switch role {
		case "operator":
			return live.Operate
		case "support":
			return live.View
		}
		return live.None
	}
	fmt.Println(levelOf("operator") > levelOf("support"), levelOf("guest") == live.None)
	// Output: true true
}

// Without any permission, the answer is 403. The page can be mounted under any path.
func ExampleHandler() {
	page, err := live.NewHandler(live.Config{
		PubSub: pubsub.New(nil), Authorize: func(*http.Request) live.Level { return live.None },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer page.Shutdown(context.Background())
	server := httptest.NewServer(page)
	defer server.Close()
	res, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	fmt.Println(res.Status)
	// Output: 403 Forbidden
}
