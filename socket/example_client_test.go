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

// room greets who joins, and repeats what it is told.
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

// Nothing need be connected yet: joins and pushes wait.
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

// A token that expires: the function is called for every attempt to connect, and a refused client
// asks it for another.
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
			cached = "fresh" // what comes of a request to who gives out tokens, outside of an example
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

// Ready waits for the connection, or says why there will be none.
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

// A client that shows how it is connected.
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

// States is for a goroutine of its own, which ends with the client.
func ExampleClient_States() {
	url, end := serveExample()
	defer end()
	ctx := context.Background()
	client := socket.NewClient(url, nil)
	states := client.States(ctx) // from here on
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

// An app that goes to the background pauses. Channels stay, and are joined again.
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

// Nobody waits for each of a hundred pushes, but for all of them in the end.
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

// Close deals with what was pushed before; its context says for how long.
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
	fmt.Println(client.Close(ctx)) // when it returns, no callback runs any more
	_, err := said.Wait(ctx)
	fmt.Println(err)
	// Output:
	// said {"body":"bye"}
	// <nil>
	// <nil>
}

// Params are looked at by the server before there is a socket. A function is asked for every
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

// Two Go programs may speak MessagePack. A stock Phoenix refuses it.
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
	json, err := reply.JSON() // Bytes are MessagePack; Decode is the same for both
	fmt.Println(string(json), err)
	// Output: {"welcome":"ann"} <nil>
}

// Behind a proxy that lets no WebSocket through, a client falls back to long polling.
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

// A delay of one's own: slow after a restart of the server, which is announced by a code, and no
// more than five attempts.
func ExampleRetry() {
	delay := func(r socket.Retry) time.Duration {
		switch {
		case r.Tries > 5:
			return -1 // give up: the client is Failed until Connect is called
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
