package channel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// adder returns a handler that adds numbers and broadcasts the total.
func adder() *channel.Handler {
	type sum struct{ total int }
	return channel.Define(
		func(*sum, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("add", func(s *sum, _ context.Context, c *channel.Channel, n int) (push.Reply, error) {
			if n < 0 {
				return push.NoReply, push.Reject("only up")
			}
			s.total += n
			return push.OK(s.total), c.Broadcast("total", map[string]int{"total": s.total})
		}))
}

// A push is answered once. Wait waits for the answer; Receive registers a function for it.
func ExampleClient_Push() {
	room, _, end := dial(adder())
	defer end()
	ctx := context.Background()

	reply, err := room.Push("add", 2).Wait(ctx)
	fmt.Printf("%s %v\n", reply.Bytes(), err)

	_, err = room.Push("add", -1).Wait(ctx)
	var refused *push.Error
	fmt.Println(errors.As(err, &refused), refused.Reason())

	p := room.Push("add", 3).
		Receive("ok", func(p serializer.Payload) { fmt.Printf("received %s\n", p.Bytes()) }).
		Receive("error", func(p serializer.Payload) { fmt.Println("refused") }).
		Receive(push.StatusTimeout, func(serializer.Payload) { fmt.Println("no reply") })
	<-p.Done()
	// Output:
	// 2 <nil>
	// true only up
	// received 5
}

// Call pushes an event, waits for the reply and decodes it.
func ExampleCall() {
	room, _, end := dial(adder())
	defer end()
	for _, n := range []int{2, 3} {
		total, err := channel.Call[int](context.Background(), room, "add", n)
		fmt.Println(total, err)
	}
	// Output:
	// 2 <nil>
	// 5 <nil>
}

// Events collects events from the moment when it is called.
func ExampleClient_Events() {
	room, _, end := dial(adder())
	defer end()
	totals := room.Events("total")
	for n := range 4 {
		room.Push("add", n)
	}
	seen := 0
	for m, err := range totals {
		if err != nil { // some were dropped because too many waited
			fmt.Println(err)
			continue
		}
		fmt.Printf("%s\n", m.Payload.Bytes())
		if seen++; seen == 4 {
			break
		}
	}
	// Output:
	// {"total":0}
	// {"total":1}
	// {"total":3}
	// {"total":6}
}

// On registers a function, which is called with one event at a time.
func ExampleClient_On() {
	room, _, end := dial(adder())
	defer end()
	done := make(chan struct{})
	room.On("total", func(p serializer.Payload) {
		var v struct{ Total int }
		if err := p.Decode(&v); err != nil {
			fmt.Println(err)
		}
		fmt.Println("total", v.Total)
		close(done)
	})
	room.Push("add", 7)
	<-done
	// Output: total 7
}

// A join is answered once, as a push is. A refused join is repeated after a delay unless the
// channel is left.
func ExampleClient_Join() {
	_, enter, end := serve(channel.Define(
		func(_ *struct{}, _ context.Context, _ *channel.Channel, p struct{ Password string }) (any, error) {
			if p.Password != "open sesame" {
				return nil, push.Reject("wrong password")
			}
			return map[string]string{"welcome": "in"}, nil
		}))
	defer end()
	ctx := context.Background()
	for _, password := range []string{"let me in", "open sesame"} {
		room := enter(map[string]string{"password": password}, nil)
		reply, err := room.Join().Wait(ctx)
		if err != nil {
			fmt.Println(err)
			room.Leave()
			continue
		}
		fmt.Println(string(reply.Bytes()))
	}
	// Output:
	// push: replied error: wrong password
	// {"welcome":"in"}
}

// crashing returns a handler whose channels crash on the event "crash".
func crashing() *channel.Handler {
	return channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("crash", func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, errors.New("out of order")
		}))
}

// A channel is joined again after the server's channel crashed or the connection was lost. The
// functions of OnJoin are called for every join, those of OnError for every failure.
func ExampleClient_OnError() {
	_, enter, end := serve(crashing())
	defer end()
	room := enter(nil, &socket.ClientConfig{RejoinAfter: func(int) time.Duration { return time.Millisecond }})
	joined := make(chan struct{}, 10)
	room.OnJoin(func(serializer.Payload) {
		fmt.Println("joined")
		joined <- struct{}{}
	})
	room.OnError(func(err error) {
		var remote *channel.RemoteError
		if errors.As(err, &remote) {
			fmt.Println("the server sent", remote.Event)
			return
		}
		fmt.Println(err)
	})
	room.Join()
	<-joined
	room.Push("crash", nil)
	<-joined
	// Output:
	// joined
	// the server sent phx_error
	// joined
}

// Leave is complete when the server has confirmed it. Then the topic is free.
func ExampleClient_Leave() {
	_, enter, end := serve(adder())
	defer end()
	ctx := context.Background()
	room := enter(nil, nil)
	closed := make(chan error, 1)
	room.OnClose(func(cause error) { closed <- cause })
	if _, err := room.Join().Wait(ctx); err != nil {
		fmt.Println(err)
	}
	_, err := room.Leave().Wait(ctx)
	fmt.Println(err)
	fmt.Println(errors.Is(<-closed, channel.ErrLeft))
	_, err = room.Push("add", 1).Wait(ctx)
	fmt.Println(errors.Is(err, channel.ErrClosed))
	// Output:
	// <nil>
	// true
	// true
}

// The loop ends with the context, or when the channel or the socket is closed.
func ExampleClient_EventsContext() {
	room, _, end := dial(adder())
	defer end()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	totals := room.EventsContext(ctx, "total")
	room.Push("add", 1)
	for m := range totals {
		fmt.Println(string(m.Payload.Bytes()))
		stop()
	}
	fmt.Println(ctx.Err())
	// Output:
	// {"total":1}
	// context canceled
}

// OnMessage receives all events in order, for programs that forward them.
func ExampleClient_OnMessage() {
	_, enter, end := serve(adder())
	defer end()
	room := enter(nil, nil)
	got := make(chan serializer.Message)
	off := room.OnMessage(func(m serializer.Message) {
		if m.Kind == serializer.KindBroadcast {
			got <- m
		}
	})
	defer off()
	room.Join()
	room.Push("add", 5)
	m := <-got
	fmt.Println(m.Topic, m.Event, string(m.Payload.Bytes()))
	// Output: room:1 total {"total":5}
}

// A push has a short timeout if a late answer is useless. The server may have handled the push even
// if it timed out.
func ExampleClient_PushWithTimeout() {
	room, _, end := dial(channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("think", func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, nil // never replies
		})))
	defer end()
	_, err := room.PushWithTimeout("think", nil, time.Millisecond).Wait(context.Background())
	fmt.Println(errors.Is(err, push.ErrTimeout))
	// Output: true
}

// The position of a pointer is worthless later: it is sent at once, or not at all.
func ExampleClient_PushNow() {
	room, _, end := dial(adder())
	defer end()
	_, err := room.PushNow("add", 1).Wait(context.Background())
	fmt.Println(err)
	room.Leave()
	_, err = room.PushNow("add", 1).Wait(context.Background())
	fmt.Println(errors.Is(err, push.ErrOffline))
	// Output:
	// <nil>
	// true
}

// State returns the channel's state, and the cause if it is errored or closed.
func ExampleClient_State() {
	room, _, end := dial(adder())
	defer end()
	state, cause := room.State()
	fmt.Println(state, state == channel.StateJoined, cause)
	if _, err := room.Leave().Wait(context.Background()); err != nil {
		fmt.Println(err)
	}
	state, cause = room.State()
	fmt.Println(state, state == channel.StateClosed, errors.Is(cause, channel.ErrLeft))
	// Output:
	// joined true <nil>
	// closed true true
}

// Stats returns what is pending. Here the pushes wait for the connection.
func ExampleClient_Stats() {
	client := socket.NewClient("ws://localhost:4000/socket", nil)
	defer client.Close(context.Background())
	room := client.Channel("room:1", nil)
	room.Join()
	room.Push("add", 2)
	room.Push("add", 3)
	var s channel.ClientStats = room.Stats()
	fmt.Println(s.Topic, s.Unanswered, "unanswered,", s.Queued, "not sent yet")
	// Output: room:1 2 unanswered, 2 not sent yet
}

// A reader that is too slow misses events. An OverflowError takes their place.
func ExampleOverflowError() {
	_, enter, end := serve(channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("count", func(_ *struct{}, _ context.Context, c *channel.Channel, to int) (push.Reply, error) {
			for n := range to {
				if err := c.Push("number", map[string]int{"n": n}); err != nil {
					return push.NoReply, err
				}
			}
			return push.OK(nil), nil
		})))
	defer end()
	room := enter(nil, &socket.ClientConfig{MaxBacklog: 1000})
	numbers := room.Events("number")
	room.Join()
	if _, err := room.Push("count", 100).Wait(context.Background()); err != nil { // numbers are not read yet
		fmt.Println(err)
	}
	got, missed := 0, 0
	for _, err := range numbers {
		var o *channel.OverflowError
		if errors.As(err, &o) {
			missed += o.Dropped
		} else {
			got++
		}
		if got+missed == 100 {
			break
		}
	}
	fmt.Println(got > 0, missed > 0)
	// Output: true true
}

// A client reads what was sent before it joined, when its user scrolls up.
func ExampleClient_Before() {
	client := socket.NewClient("ws://localhost:4000/socket", nil)
	room := client.Channel("room:lobby", nil)
	room.Resume(channel.ResumeConfig{Last: 20})
	var oldest history.Position // of the records that are shown
	room.On("new_msg", func(p serializer.Payload) {
		if oldest.IsZero() {
			oldest = room.Position()
		}
		fmt.Println(p)
	})
	room.Join()
	client.Connect()

	scrolledUp := func(ctx context.Context) {
		records, more, err := room.Before(ctx, oldest, 50)
		for _, r := range slices.Backward(records) {
			fmt.Println(r.Position, r.Event, r.Payload)
			oldest = r.Position
		}
		fmt.Println("there is more:", more, err)
	}
	_ = scrolledUp
}

// A client that keeps its position receives what it missed while it was away.
func ExampleClient_Resume() {
	var stored history.Position // what Position returned before the program ended

	client := socket.NewClient("ws://localhost:4000/socket", nil)
	room := client.Channel("room:lobby", nil)
	room.Resume(channel.ResumeConfig{
		Since: stored,
		OnReset: func(reply serializer.Payload, why string) {
			fmt.Println("start anew with", reply, "because of", why)
		},
	})
	room.On("new_msg", func(p serializer.Payload) {
		stored = room.Position()
		fmt.Println(p)
	})
	room.Join()
}

// A client whose store is a file continues where its last process ended.
func ExampleClient_Keep() {
	client := socket.NewClient("ws://localhost:4000/socket", &socket.ClientConfig{Offline: &offline.Config{
		Store:    offline.NewMemory(), // a program passes the one of boltengine.OpenClient
		Identity: "ann",
	}})
	room := client.Channel("room:lobby", nil)
	room.Resume(channel.ResumeConfig{OnReset: func(reply serializer.Payload, why string) {
		fmt.Println("start anew with", reply, "because of", why)
	}})
	room.On("new_msg", func(p serializer.Payload) { fmt.Println(p) })
	room.Keep(offline.Keep)
	room.Join()
	client.Connect()
}
