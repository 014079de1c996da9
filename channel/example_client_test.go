package channel_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// adder adds up numbers, and tells everyone.
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

// A push is answered once. Wait for that, or have a function called.
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

// Call pushes and waits, and decodes the reply.
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

// Events are kept from when Events is called.
func ExampleClient_Events() {
	room, _, end := dial(adder())
	defer end()
	totals := room.Events("total")
	for n := range 4 {
		room.Push("add", n)
	}
	seen := 0
	for m, err := range totals {
		if err != nil { // some were dropped, because too many waited
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

// On calls a function instead, one event at a time.
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

// A join is answered, too. One that was refused is tried again after a while, unless the channel is left.
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

// crashing crashes when it is told to.
func crashing() *channel.Handler {
	return channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("crash", func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, errors.New("out of order")
		}))
}

// A channel whose other end crashed, or whose connection was lost, is joined again. OnJoin is told of every join, OnError of what was between.
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
		var told *channel.RemoteError
		if errors.As(err, &told) {
			fmt.Println("the server sent", told.Event)
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

// Whoever leaves is done when the server has said so. The topic is free then.
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

// OnMessage gets all events, in order, for whoever passes them on.
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

// A push that is of no use later has a short timeout. The server may have done what was asked all the same.
func ExampleClient_PushWithTimeout() {
	room, _, end := dial(channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("think", func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, nil // for ever
		})))
	defer end()
	_, err := room.PushWithTimeout("think", nil, time.Millisecond).Wait(context.Background())
	fmt.Println(errors.Is(err, push.ErrTimeout))
	// Output: true
}

// State is where the channel is, and why it is there if that is not as it should be.
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

// Stats tells what waits: here for the connection, which is not made yet.
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

// Who takes too long misses events, and is told where.
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
	if _, err := room.Push("count", 100).Wait(context.Background()); err != nil { // meanwhile nobody reads the numbers
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
