package push_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// join starts a server with a callback for the event "ask" and joins a client to its channel.
func join(ask func(n int) (push.Reply, error)) (room *channel.Client, end func()) {
	ctx := context.Background()
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room": channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("ask", func(_ *struct{}, _ context.Context, _ *channel.Channel, n int) (push.Reply, error) {
			return ask(n)
		}),
	)}})
	server := httptest.NewServer(h)
	client := socket.NewClient(server.URL, nil)
	client.Connect()
	room = client.Channel("room", nil)
	room.Join()
	return room, func() {
		client.Close(ctx)
		h.Shutdown(ctx)
		server.Close()
	}
}

// A callback replies with OK, with another status, or with an error made by Reject.
func ExampleReply() {
	room, end := join(func(n int) (push.Reply, error) {
		switch {
		case n < 0:
			return push.NoReply, push.Reject("only up") // {"reason":"only up"}
		case n > 9:
			return push.Reply{Status: "later", Payload: map[string]int{"in": 60}}, nil
		}
		return push.OK(n * n), nil
	})
	defer end()
	for _, n := range []int{7, -1, 10} {
		reply, err := room.Push("ask", n).Wait(context.Background())
		fmt.Printf("%q %v\n", reply.Bytes(), err)
	}
	// Output:
	// "49" <nil>
	// "" push: replied error: only up
	// "" push: replied later
}

// The reason may be a string for people, or a value for programs.
func ExampleReject() {
	type tooSoon struct {
		Seconds int `json:"seconds"`
	}
	room, end := join(func(int) (push.Reply, error) {
		return push.NoReply, push.Reject(tooSoon{30})
	})
	defer end()

	_, err := room.Push("ask", 1).Wait(context.Background())
	var refused *push.Error
	if errors.As(err, &refused) {
		var why tooSoon
		fmt.Println(refused.Payload.Decode(&why), why.Seconds)
	}
	// Output: <nil> 30
}

// An error reply is an Error. Any other error of Wait means that there is no reply.
func ExampleError() {
	room, end := join(func(int) (push.Reply, error) { return push.NoReply, push.Reject("not today") })
	defer end()
	_, err := room.Push("ask", 1).Wait(context.Background())
	var refused *push.Error
	switch {
	case errors.As(err, &refused):
		fmt.Println("refused:", refused.Reason())
	case errors.Is(err, push.ErrLost), errors.Is(err, push.ErrTimeout):
		fmt.Println("it may have been done")
	case err != nil:
		fmt.Println("it was not done:", err)
	}
	// Output: refused: not today
}

// OK takes any value, or a payload.
func ExampleOK() {
	room, end := join(func(n int) (push.Reply, error) { return push.OK(map[string]int{"double": 2 * n}), nil })
	defer end()
	reply, err := room.Push("ask", 4).Wait(context.Background())
	fmt.Println(string(reply.Bytes()), err)
	// Output: {"double":8} <nil>
}

// Wait returns the reply, or an error that says why there is none.
func ExamplePush_Wait() {
	room, end := join(func(n int) (push.Reply, error) { return push.OK(n + 1), nil })
	defer end()
	p := room.Push("ask", 1) // returns at once; call Wait now, later, or not at all
	reply, err := p.Wait(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	var n int
	fmt.Println(reply.Decode(&n), n)
	// Output: <nil> 2
}

// Receive works as in phoenix.js: it registers a function instead of waiting.
func ExamplePush_Receive() {
	room, end := join(func(n int) (push.Reply, error) {
		if n == 0 {
			return push.NoReply, push.Reject("nothing to do")
		}
		return push.OK(n), nil
	})
	defer end() // also waits for the callbacks
	for n := range 2 {
		room.Push("ask", n).
			Receive(push.StatusOK, func(p serializer.Payload) { fmt.Println("ok", string(p.Bytes())) }).
			Receive(push.StatusError, func(p serializer.Payload) { fmt.Println("error", string(p.Bytes())) }).
			Receive(push.StatusTimeout, func(serializer.Payload) { fmt.Println("no reply in time") }).
			Receive(push.StatusFailed, func(p serializer.Payload) { fmt.Println("failed", string(p.Bytes())) })
	}
	// Output:
	// error {"reason":"nothing to do"}
	// ok 1
}

// Cancel withdraws a push whose reply is no longer needed. If it was not sent yet, it never will
// be.
func ExamplePush_Cancel() {
	client := socket.NewClient("ws://localhost:4000/socket", nil) // not connected, so nothing is sent
	defer client.Close(context.Background())
	room := client.Channel("room", nil)
	room.Join()
	p := room.Push("ask", 1)
	p.Cancel()
	_, err := p.Wait(context.Background())
	fmt.Println(errors.Is(err, push.ErrCanceled))
	// Output: true
}

// Done allows to wait for several pushes, or for a push and other events, in one select.
func ExamplePush_Done() {
	room, end := join(func(n int) (push.Reply, error) { return push.OK(n), nil })
	defer end()
	p := room.Push("ask", 3)
	stop := make(chan struct{}) // closed when the program ends, for example
	select {
	case <-p.Done():
		reply, err := p.Wait(context.Background()) // returns at once
		fmt.Println(string(reply.Bytes()), err)
	case <-stop:
		p.Cancel()
	}
	// Output: 3 <nil>
}

// A Reason is the same error at both ends.
func ExampleReason() {
	const full push.Reason = "full" // shared by the server and its clients
	room, end := join(func(int) (push.Reply, error) { return push.NoReply, full })
	defer end()
	_, err := room.Push("ask", 1).Wait(context.Background())
	fmt.Println(errors.Is(err, full), err)
	// Output: true push: replied error: full
}
