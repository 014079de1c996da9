package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// counter is the state of one channel, as long as it is joined.
type counter struct{ n int }

func (t *counter) join(context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}

func (t *counter) add(_ context.Context, _ *channel.Channel, by int) (push.Reply, error) {
	if by < 0 {
		return push.NoReply, push.Reject("only up")
	}
	t.n += by
	return push.OK(t.n), nil
}

func ExampleNewHandler() {
	counters := channel.Define((*counter).join, channel.On("add", (*counter).add))
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"counter:*": counters}})
	mux := http.NewServeMux()
	mux.Handle("/socket/", h)
	server := httptest.NewServer(mux) // a real program calls http.ListenAndServe
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL+"/socket", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	mine := client.Channel("counter:1", nil)
	mine.Join()
	for _, by := range []int{2, 3, -1} {
		n, err := channel.Call[int](ctx, mine, "add", by)
		fmt.Println(n, err)
	}
	// Output:
	// 2 <nil>
	// 5 <nil>
	// 0 push: replied error: only up
}

type userKey struct{}

// Connect authenticates the client before its socket exists. Every callback finds the user in its
// context.
func ExampleConfig_connect() {
	users := map[string]string{"secret": "ann"} // by token
	h := socket.NewHandler(socket.Config{
		AuthToken: true,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			user, ok := users[r.Token]
			if !ok {
				return nil, errors.New("unknown token")
			}
			r.ID = "user:" + user // h.Disconnect(ctx, "user:ann") ends all of ann's sockets
			return context.WithValue(ctx, userKey{}, user), nil
		},
		Channels: channel.Routes{"me": channel.Define(
			func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
				return "hello " + ctx.Value(userKey{}).(string), nil
			})},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{AuthToken: "secret"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	reply, err := client.Channel("me", nil).Join().Wait(ctx)
	fmt.Println(string(reply.Bytes()), err)

	_, err = socket.Dial(ctx, server.URL, &socket.ClientConfig{AuthToken: "wrong"})
	fmt.Println(err != nil)
	// Output:
	// "hello ann" <nil>
	// true
}

// Any code can broadcast to a topic through the handler's PubSub.
func ExampleHandler_PubSub() {
	join := func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }
	news := channel.Define(join)
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"news": news}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	room := client.Channel("news", nil)
	events := room.Events("headline")
	if _, err := room.Join().Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if err := h.PubSub().Broadcast(ctx, "news", "headline", map[string]string{"title": "It works"}); err != nil {
		fmt.Println(err)
	}
	for m, err := range events {
		fmt.Println(string(m.Payload.Bytes()), err)
		break
	}
	// Output: {"title":"It works"} <nil>
}

// Disconnect ends all sockets with an id, which Connect has set. Connect may refuse them when they
// return.
func ExampleHandler_Disconnect() {
	h := socket.NewHandler(socket.Config{
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var params struct{ User string }
			if err := r.Params.Decode(&params); err != nil {
				return nil, err
			}
			r.ID = "user:" + params.User
			return ctx, nil
		},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{Params: map[string]string{"user": "ann"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	states := client.States(ctx) // from here on
	if err := h.Disconnect(ctx, "user:ann"); err != nil {
		fmt.Println(err) // sockets of other nodes may not have ended
	}
	for s := range states {
		if s.Status == socket.StatusWaiting {
			fmt.Println(s.Cause)
			break
		}
	}
	// Output: transport: closed with 1001
}

// The Handler must be shut down before the http.Server, which does not wait for WebSockets. The
// clients reconnect to another node.
func ExampleHandler_Shutdown() {
	drain := socket.Drain{Batch: 1000, Interval: time.Second} // at most 1000 clients per second
	h := socket.NewHandler(socket.Config{Drain: drain})
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()

	client, err := socket.Dial(context.Background(), "ws://"+listener.Addr().String(), nil)
	if err != nil {
		fmt.Println(err)
	}
	defer client.Close(context.Background())

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	fmt.Println(errors.Join(h.Shutdown(ctx), server.Shutdown(ctx)))
	fmt.Println(<-done)
	fmt.Println(h.Stats().Sockets, "sockets")
	// Output:
	// <nil>
	// http: Server closed
	// 0 sockets
}

// Stats counts everything that is refused, dropped or ended because of a bound.
func ExampleHandler_Advise() {
	ctx := context.Background()
	h := socket.NewHandler(socket.Config{Drain: socket.Drain{Notice: 5 * time.Second, Spread: 10 * time.Second}})
	defer h.Shutdown(ctx)

	// This node has more load than the others: move a fifth of its clients.
	if err := h.Advise(ctx, "move", 0.2); err != nil {
		fmt.Println(err)
	}
	fmt.Println(h.Advise(ctx, "move", 20))
	// Output: socket: advise: fraction 20 is not between 0 and 1
}

func ExampleHandler_Stats() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	client, err := socket.Dial(ctx, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	_, err = client.Channel("attic", nil).Join().Wait(ctx)
	fmt.Println(err)

	var s socket.Stats = h.Stats()
	fmt.Println(s.Sockets, "socket,", s.NoTopic, "join of no topic,", s.WebSocket.Slow, "too slow")
	// Output:
	// push: replied error: unmatched topic
	// 1 socket, 1 join of no topic, 0 too slow
}

// A refused handshake is answered with 403, unless Connect returns a Refusal with another status.
func ExampleRefusal() {
	h := socket.NewHandler(socket.Config{
		Connect: func(context.Context, *socket.Request) (context.Context, error) {
			return nil, &socket.Refusal{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}},
				Body: "come back later"}
		},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	defer h.Shutdown(context.Background())

	_, err := socket.Dial(context.Background(), server.URL, nil)
	var refused *transport.HandshakeError
	if errors.As(err, &refused) {
		fmt.Println(refused.StatusCode, refused.Header.Get("Retry-After"), string(refused.Body))
	}
	// Output: 429 60 come back later
}

// The params of a request are those of the URL's query and the wildcards of the pattern.
func ExampleRequest() {
	type key struct{}
	h := socket.NewHandler(socket.Config{
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var params struct {
				Tenant string
				App    struct{ Version string }
			}
			if err := r.Params.Decode(&params); err != nil {
				return nil, err
			}
			fmt.Println(r.Transport, r.Version, r.HTTP.Header.Get("User-Agent"))
			return context.WithValue(ctx, key{}, params.Tenant+" "+params.App.Version), nil
		},
		Channels: channel.Routes{"me": channel.Define(
			func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
				return ctx.Value(key{}), nil
			})},
	})
	mux := http.NewServeMux()
	mux.Handle("/{tenant}/socket/", h)
	server := httptest.NewServer(mux)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL+"/acme/socket", &socket.ClientConfig{
		Params: map[string]any{"app": map[string]string{"version": "1.2"}},
		Header: http.Header{"User-Agent": {"bot"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	reply, err := client.Channel("me", nil).Join().Wait(ctx)
	fmt.Println(string(reply.Bytes()), err)
	// Output:
	// websocket 2.0.0 bot
	// "acme 1.2" <nil>
}

// Pages of other hosts may connect only if Origins lists them, because a browser sends the user's
// cookies for any page.
func ExampleConfig_origins() {
	h := socket.NewHandler(socket.Config{Origins: []string{socket.SameOrigin, "https://app.example.com", "//*.example.org"}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	for _, origin := range []string{"https://app.example.com", "https://www.example.org", "https://evil.example"} {
		client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{Header: http.Header{"Origin": {origin}}})
		fmt.Println(origin, err == nil)
		if err == nil {
			client.Close(ctx)
		}
	}
	// Output:
	// https://app.example.com true
	// https://www.example.org true
	// https://evil.example false
}

// The config bounds the cost of a client. Everything beyond a bound is refused with a reason, and
// counted.
func ExampleConfig_limits() {
	h := socket.NewHandler(socket.Config{
		Channels:      channel.Routes{"room:*": exampleRoom()},
		MaxMessage:    16 << 10, // bytes
		MaxChannels:   1,
		MessageRate:   50, // per second, and 100 at once
		HandshakeRate: 100,
		OnSlow:        transport.DropOldest, // of broadcasts and pushes; the default is to disconnect
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	client, err := socket.Dial(ctx, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	for _, topic := range []string{"room:1", "room:2"} {
		_, err := client.Channel(topic, map[string]string{"user": "ann"}).Join().Wait(ctx)
		fmt.Println(topic, err)
	}
	fmt.Println(h.Stats().TooMany)
	// Output:
	// room:1 <nil>
	// room:2 push: replied error: too many channels joined
	// 1
}

// The nodes of a cluster share an engine, and a secret for long polls. A balancer can then send any
// request to any node.
func ExampleConfig_cluster() {
	engine := pubsubtest.NewCluster() // a real program uses natsengine or redisengine
	secret := []byte("32 bytes or more, from the secrets")
	ctx, stop := context.WithCancel(context.Background())
	left := make(chan error)
	var nodes []*socket.Handler
	for _, name := range []string{"a", "b"} {
		ps := pubsub.New(engine.Node(name))
		go func() { left <- ps.Run(ctx) }()
		nodes = append(nodes, socket.NewHandler(socket.Config{
			PubSub:   ps,
			Channels: channel.Routes{"room:*": exampleRoom()},
			LongPoll: longpoll.Config{Secret: secret},
		}))
		for !ps.Health().Connected {
			runtime.Gosched()
		}
	}
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nodes[requests.Add(1)%2].ServeHTTP(w, r)
	}))
	defer server.Close()

	client := socket.NewClient(server.URL, &socket.ClientConfig{Transport: socket.TransportLongPoll})
	client.Connect()
	reply, err := client.Channel("room:1", map[string]string{"user": "ann"}).Join().Wait(ctx)
	fmt.Println(string(reply.Bytes()), err)

	client.Close(ctx)
	for _, h := range nodes {
		fmt.Println(h.Shutdown(ctx)) // before the engine is closed
	}
	stop()
	<-left
	<-left
	// Output:
	// {"welcome":"ann"} <nil>
	// <nil>
	// <nil>
}
