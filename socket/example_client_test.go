package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// exampleRoom returns a handler that welcomes its members and broadcasts their messages.
func exampleRoom() *channel.Handler {
	return channel.Define(
		func(_ *struct{}, _ context.Context, c *channel.Channel, p struct{ User string }) (any, error) {
			if p.User == "" {
				return nil, push.Reject("user is required")
			}
			return map[string]string{"welcome": p.User}, nil
		},
		channel.On("say", func(_ *struct{}, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}))
}

// Connect, join, push, and wait for the reply.
func ExampleDial() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client, err := socket.Dial(ctx, server.URL, nil) // "wss://example.com/socket"
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)

	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	reply, err := room.Join().Wait(ctx)
	fmt.Printf("joined: %s %v\n", reply.Bytes(), err)

	reply, err = room.Push("say", map[string]string{"body": "hello"}).Wait(ctx)
	fmt.Printf("said: %s %v\n", reply.Bytes(), err)

	_, err = client.Channel("room:attic", nil).Join().Wait(ctx)
	var refused *push.Error
	if errors.As(err, &refused) {
		fmt.Println("refused:", refused.Reason())
	}
	// Output:
	// joined: {"welcome":"ann"} <nil>
	// said: {"body":"hello"} <nil>
	// refused: user is required
}

// Joins and pushes wait until the client is connected.
func ExampleNewClient() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	client := socket.NewClient(server.URL, nil)
	defer client.Close(ctx)
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.Join()
	said := room.Push("say", map[string]string{"body": "early"})
	fmt.Println(client.State().Status)
	client.Connect()
	reply, err := said.Wait(ctx)
	fmt.Printf("%s %v\n", reply.Bytes(), err)
	fmt.Println(client.State().Status)
	// Output:
	// disconnected
	// {"body":"early"} <nil>
	// connected
}

// A token may expire. The function is called for every attempt to connect, also after a refusal.
func ExampleClientConfig() {
	h := socket.NewHandler(socket.Config{
		AuthToken: true,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			if r.Token != "fresh" {
				return nil, errors.New("expired")
			}
			return ctx, nil
		},
		Channels: channel.Routes{"room:*": exampleRoom()},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	cached := "stale"
	client := socket.NewClient(server.URL, &socket.ClientConfig{
		AuthTokenFunc: func(ctx context.Context) (string, error) {
			token := cached
			cached = "fresh" // a real program requests a token here
			return token, nil
		},
		DeniedAfter: func(tries int) time.Duration { return 10 * time.Millisecond },
	})
	defer client.Close(ctx)
	states := client.States(ctx)
	client.Connect()
	for s := range states {
		fmt.Println(s.Status)
		if s.Status == socket.StatusConnected {
			break
		}
	}
	// Output:
	// disconnected
	// connecting
	// denied
	// connecting
	// connected
}

// serveExample serves rooms.
func serveExample() (url string, end func()) {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(h)
	return server.URL, func() {
		h.Shutdown(context.Background())
		server.Close()
	}
}

// Ready waits for the connection, or returns the reason why there will be none.
func ExampleClient_Ready() {
	url, end := serveExample()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := socket.NewClient(url, nil)
	defer client.Close(ctx)
	fmt.Println(client.Ready(ctx))
	client.Connect()
	fmt.Println(client.Ready(ctx), client.State().Transport)
	// Output:
	// socket: socket paused
	// <nil> websocket
}

// State shows how a client is connected.
func ExampleClient_OnState() {
	url, end := serveExample()
	defer end()
	client := socket.NewClient(url, nil)
	defer client.Close(context.Background())
	up := make(chan struct{})
	off := client.OnState(func(s socket.State) {
		switch s.Status {
		case socket.StatusConnected:
			fmt.Println("connected by", s.Transport)
			close(up)
		case socket.StatusWaiting:
			fmt.Println("trying again at", s.Until, "because of", s.Cause)
		case socket.StatusDenied, socket.StatusFailed:
			fmt.Println("not allowed:", s.Cause)
		}
	})
	defer off()
	client.Connect()
	<-up
	// Output: connected by websocket
}

// States is used on a goroutine of its own. The sequence ends when the client is closed.
func ExampleClient_States() {
	url, end := serveExample()
	defer end()
	ctx := context.Background()
	client := socket.NewClient(url, nil)
	states := client.States(ctx) // from now on
	watched := make(chan time.Duration)
	go func() {
		var connecting, connected time.Time
		for s := range states {
			switch s.Status {
			case socket.StatusConnecting:
				connecting = s.Since
			case socket.StatusConnected:
				connected = s.Since
			}
		}
		watched <- connected.Sub(connecting)
	}()
	client.Connect()
	if err := client.Ready(ctx); err != nil {
		fmt.Println(err)
	}
	client.Close(ctx)
	fmt.Println("connected within a minute:", <-watched < time.Minute)
	fmt.Println(client.State().Wanted == socket.WantClosed)
	// Output:
	// connected within a minute: true
	// true
}

// An app that moves to the background can pause the client. Its channels join again after Connect.
func ExampleClient_Pause() {
	url, end := serveExample()
	defer end()
	ctx := context.Background()
	client, err := socket.Dial(ctx, url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	joins := make(chan struct{}, 10)
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.OnJoin(func(serializer.Payload) { joins <- struct{}{} })
	room.Join()
	<-joins

	client.Pause()
	fmt.Println(errors.Is(client.Ready(ctx), socket.ErrPaused))
	said := room.Push("say", map[string]string{"body": "later"}) // waits
	client.Connect()
	<-joins
	reply, err := said.Wait(ctx)
	fmt.Println(string(reply.Bytes()), err)
	// Output:
	// true
	// {"body":"later"} <nil>
}

// Flush waits for the replies to all pushes.
func ExampleClient_Flush() {
	url, end := serveExample()
	defer end()
	ctx := context.Background()
	client, err := socket.Dial(ctx, url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.Join()
	for i := range 100 {
		room.Push("say", map[string]int{"n": i})
	}
	err = client.Flush(ctx)
	var s socket.ClientStats = client.Stats()
	fmt.Println(err, s.Unanswered, "unanswered")
	// Output: <nil> 0 unanswered
}

// Progress shows what is left to do. The stream ends when that is done.
func ExampleClient_Progress() {
	url, end := serveExample()
	defer end()
	ctx := context.Background()
	client := socket.NewClient(url, nil)
	defer client.Close(ctx)
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.Join()
	for i := range 100 {
		room.Push("say", map[string]int{"n": i})
	}
	progress := client.Progress(true)
	client.Connect()
	var last socket.Progress
	for p := range progress.All(ctx) {
		last = p
	}
	fmt.Println(last.Up.Done, "of", last.Up.Total)
	// Output: 100 of 100
}

// A FlushError has the pushes that failed.
func ExampleFlushError() {
	client := socket.NewClient("ws://localhost/socket", nil)
	defer client.Close(context.Background())
	client.Channel("room:lobby", nil).Push("say", "before the join")
	failed, ok := errors.AsType[*socket.FlushError](client.Flush(context.Background()))
	fmt.Println(ok, failed.Failed, errors.Is(failed, channel.ErrNotJoined))
	// Output: true 1 true
}

// Close waits for the replies to earlier pushes. Its context bounds the time.
func ExampleClient_Close() {
	url, end := serveExample()
	defer end()
	client := socket.NewClient(url, nil)
	client.Connect()
	room := client.Channel("room:lobby", map[string]string{"user": "ann"})
	room.Join()
	said := room.Push("say", map[string]string{"body": "bye"}).
		Receive("ok", func(p serializer.Payload) { fmt.Println("said", string(p.Bytes())) })

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fmt.Println(client.Close(ctx)) // after it has returned, no callback runs
	_, err := said.Wait(ctx)
	fmt.Println(err)
	// Output:
	// said {"body":"bye"}
	// <nil>
	// <nil>
}

// The server receives the params before it accepts the socket. A function is called for every
// attempt to connect.
func ExampleClientConfig_params() {
	h := socket.NewHandler(socket.Config{
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			fmt.Println(r.HTTP.URL.Query().Get("attempt"), r.HTTP.URL.Query().Get("device[os]"))
			return ctx, nil
		},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	attempts := 0
	client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{
		Params: func(context.Context) (any, error) {
			attempts++
			return map[string]any{"attempt": attempts, "device": map[string]string{"os": "linux"}}, nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(client.Close(ctx))
	// Output:
	// 1 linux
	// <nil>
}

// Two Go programs can use MessagePack. A stock Phoenix refuses it.
func ExampleClientConfig_messagePack() {
	url, end := serveExample()
	defer end()
	ctx := context.Background()
	client, err := socket.Dial(ctx, url, &socket.ClientConfig{Serializer: serializer.V3()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	reply, err := client.Channel("room:lobby", map[string]string{"user": "ann"}).Join().Wait(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	json, err := reply.JSON() // Bytes returns MessagePack; Decode supports both
	fmt.Println(string(json), err)
	// Output: {"welcome":"ann"} <nil>
}

// Behind a proxy that blocks WebSockets, a client uses long poll.
func ExampleClientTransport() {
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": exampleRoom()}})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" { // the proxy
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		h.ServeHTTP(w, r)
	}))
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)
	client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{Transport: socket.TransportFallback})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	fmt.Println(client.State().Transport)
	// Output: longpoll
}

// This client waits longer after a restart of the server, which the close code shows, and makes at
// most five attempts.
func ExampleRetry() {
	delay := func(r socket.Retry) time.Duration {
		switch {
		case r.Tries > 5:
			return -1 // give up: the status is StatusFailed until Connect is called
		case r.Code == transport.CodeRestart:
			return 2 * time.Second
		}
		return time.Duration(r.Tries) * 100 * time.Millisecond
	}
	client := socket.NewClient("wss://example.com/socket", &socket.ClientConfig{ReconnectDelay: delay})
	defer client.Close(context.Background())
	fmt.Println(delay(socket.Retry{Tries: 3}), delay(socket.Retry{Tries: 1, Code: transport.CodeRestart}))
	// Output:
	// 300ms 2s
}

// Two parts of a program share the channel of a topic.
func ExampleClient_Subscribe() {
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

	params := map[string]string{"user": "ann"}
	room := client.Subscribe("room:lobby", params)
	again := client.Subscribe("room:lobby", params)
	fmt.Println(room == again, client.Topics())

	if ch, ok := client.Lookup("room:lobby"); ok {
		ch.Leave().Wait(ctx)
	}
	fmt.Println(client.Subscribe("room:lobby", params) == room)
	_, err = room.Join().Wait(ctx)
	fmt.Println(err)
	// Output:
	// true [room:lobby]
	// true
	// <nil>
}
