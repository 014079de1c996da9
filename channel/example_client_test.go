package channel_test

import (
	"context"
	"errors"
	"fmt"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
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
