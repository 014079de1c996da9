package channel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// serve serves a handler on the topics "room:…". Enter opens a socket and returns a channel of the
// topic "room:1".
func serve(h *channel.Handler) (
	handler *socket.Handler, enter func(params any, cfg *socket.ClientConfig) *channel.Client, end func(),
) {
	ctx := context.Background()
	handler = socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": h}})
	server := httptest.NewServer(handler)
	var clients []*socket.Client
	enter = func(params any, cfg *socket.ClientConfig) *channel.Client {
		client := socket.NewClient(server.URL, cfg)
		clients = append(clients, client)
		client.Connect()
		return client.Channel("room:1", params)
	}
	return handler, enter, func() {
		for _, client := range clients {
			client.Close(ctx)
		}
		handler.Shutdown(ctx)
		server.Close()
	}
}

// dial serves a handler and joins "room:1". Events returns the payload of the next event with that
// name.
func dial(h *channel.Handler) (room *channel.Client, events func(name string) string, end func()) {
	_, enter, end := serve(h)
	room = enter(nil, nil)
	got := make(chan serializer.Message, 10)
	room.OnMessage(func(m serializer.Message) {
		if m.Kind != serializer.KindReply {
			got <- m
		}
	})
	if _, err := room.Join().Wait(context.Background()); err != nil {
		fmt.Println(err)
	}
	events = func(name string) string {
		for m := range got {
			if m.Event == name {
				return string(m.Payload.Bytes())
			}
		}
		return ""
	}
	return room, events, end
}

// guest is one client's state.
type guest struct{ greeting string }

func (g *guest) join(_ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
	g.greeting = "welcome to " + c.Topic()
	return nil, c.Send(arrived{}) // pushing is possible once the join is answered
}

type arrived struct{}

func (g *guest) arrived(_ context.Context, c *channel.Channel, _ arrived) error {
	return c.Push("greeting", map[string]string{"text": g.greeting})
}

// A handler is made of functions. Most of them are methods of the state that each channel has. The
// functions of one channel never run at the same time.
func ExampleDefine() {
	ended := make(chan string, 1)
	room, event, end := dial(channel.Define((*player).join,
		channel.On("roll", (*player).roll),
		channel.Terminate(func(p *player, _ context.Context, _ *channel.Channel, reason error) {
			ended <- fmt.Sprint(reason, ", with ", p.total)
		})))
	defer end()
	for _, n := range []int{2, 7, 5} {
		total, err := channel.Call[int](context.Background(), room, "roll", n)
		fmt.Println(total, err)
	}
	fmt.Println(event("won"))
	fmt.Println(<-ended)
	// Output:
	// 2 <nil>
	// 0 push: replied error: a die has six sides
	// 7 <nil>
	// {"with":7}
	// channel stopped: won, with 7
}

// player is the state of one client's game.
type player struct{ total int }

func (p *player) join(context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return map[string]int{"up_to": 7}, nil // or nil, push.Reject("the table is full")
}

func (p *player) roll(_ context.Context, c *channel.Channel, n int) (push.Reply, error) {
	if n > 6 {
		return push.NoReply, push.Reject("a die has six sides")
	}
	p.total += n
	if p.total < 7 {
		return push.OK(p.total), nil
	}
	if err := c.Broadcast("won", map[string]int{"with": p.total}); err != nil {
		return push.NoReply, err // the channel crashes, and the client joins again
	}
	return push.OK(p.total), channel.Stop("won") // ends the channel; channel.ErrStop gives no reason
}

// Info handles messages that a channel sends to itself, such as work that must follow the join's
// reply.
func ExampleInfo() {
	_, event, end := dial(channel.Define((*guest).join, channel.Info((*guest).arrived)))
	defer end()
	fmt.Println(event("greeting"))
	// Output: {"text":"welcome to room:1"}
}

// Intercept changes a broadcast for one client.
func ExampleIntercept() {
	type line struct {
		Text string `json:"text"`
	}
	room, event, end := dial(channel.Define((*guest).join,
		channel.On("say", func(_ *guest, _ context.Context, c *channel.Channel, l line) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("said", l)
		}),
		channel.Intercept("said", func(_ *guest, _ context.Context, c *channel.Channel, l line) error {
			return c.Push("said", line{strings.ReplaceAll(l.Text, "damn", "d**n")})
		})))
	defer end()
	room.Push("say", line{"damn it"})
	fmt.Println(event("said"))
	// Output: {"text":"d**n it"}
}

// Latest keeps only the newest cursor of each user for a slow client.
func ExampleLatest() {
	type cursor struct {
		User string `json:"user"`
		At   int    `json:"at"`
	}
	room, event, end := dial(channel.Define((*guest).join,
		channel.On("move", func(_ *guest, _ context.Context, c *channel.Channel, m cursor) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("moved", m)
		}),
		channel.Latest[guest]("moved", func(m cursor) string { return m.User })))
	defer end()
	room.Push("move", cursor{"ann", 7})
	fmt.Println(event("moved"))
	// Output: {"user":"ann","at":7}
}

// Each event has its own policy for slow clients. Here, only the newest position waits for a client
// that does not poll.
func ExampleOnSlow() {
	handler, _, end := serve(channel.Define((*guest).join,
		channel.OnSlow[guest]("moved", transport.KeepLatest),
		channel.OnSlow[guest]("tick", transport.DropOldest),
		channel.OnSlow[guest]("", transport.DropNewest))) // all other events
	defer end()
	client := sleepy{handler: handler}
	client.poll() // opens the session
	client.post(`["1","1","room:1","phx_join",{}]`)
	client.poll() // receives the join's reply

	for at := range 100 {
		if err := handler.PubSub().Broadcast(context.Background(), "room:1", "moved", map[string]int{"at": at}); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(client.poll())
	fmt.Println(handler.Stats().LongPoll.Conflated, "outdated positions were dropped")
	// Output:
	// [[null,null,"room:1","moved",{"at":99}]]
	// 99 outdated positions were dropped
}

// sleepy is a long-poll client, which receives messages only when it polls.
type sleepy struct {
	handler http.Handler
	token   string
}

func (s *sleepy) poll() (messages []string) {
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/longpoll?vsn=2.0.0&token="+s.token, nil))
	var answer struct {
		Token    string
		Messages []string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		fmt.Println(err)
	}
	s.token = answer.Token
	return answer.Messages
}

func (s *sleepy) post(message string) {
	r := httptest.NewRequest(http.MethodPost, "/longpoll?vsn=2.0.0&token="+s.token, strings.NewReader(message))
	r.Header.Set("Content-Type", "application/x-ndjson")
	s.handler.ServeHTTP(httptest.NewRecorder(), r)
}

// A reply may be sent after the callback has returned. Its Ref identifies the message.
func ExampleChannel_Reply() {
	room, _, end := dial(channel.Define((*guest).join,
		channel.On("work", func(_ *guest, ctx context.Context, c *channel.Channel, n int) (push.Reply, error) {
			ref := c.Ref()
			time.AfterFunc(time.Millisecond, func() { c.Reply(ref, push.OK(n*n)) })
			return push.NoReply, nil
		})))
	defer end()
	n, err := channel.Call[int](context.Background(), room, "work", 7)
	fmt.Println(n, err)
	// Output: 49 <nil>
}

// Middleware wraps every event.
func ExampleUse() {
	log := func(next channel.Func) channel.Func {
		return func(ctx context.Context, c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
			fmt.Println("handling", event)
			return next(ctx, c, event, p)
		}
	}
	room, _, end := dial(channel.Define((*guest).join, channel.Use[guest](log),
		channel.OnAny(func(
			_ *guest, _ context.Context, _ *channel.Channel, event string, _ serializer.Payload,
		) (push.Reply, error) {
			return push.Reply{}, push.Reject("unknown event " + event)
		})))
	defer end()
	_, err := room.Push("anything", nil).Wait(context.Background())
	fmt.Println(err)
	// Output:
	// handling anything
	// push: replied error: unknown event anything
}

// Around measures all callbacks, joins included. The name comes from the program, not from the
// client.
func ExampleAround() {
	slow := func(_ *guest, ctx context.Context, c *channel.Channel, cb *channel.Callback, next func(context.Context) error,
	) error {
		begun := time.Now()
		err := next(ctx)
		fmt.Println(cb.Kind, cb.Name, err, time.Since(begun) > time.Second)
		return err
	}
	room, _, end := dial(channel.Define((*guest).join, channel.Around(slow),
		channel.On("shout", func(*guest, context.Context, *channel.Channel, string) (push.Reply, error) {
			return push.OK(nil), nil
		})))
	defer end()
	_, _ = room.Push("shout", "hello").Wait(context.Background())
	// Output:
	// join  <nil> false
	// event shout <nil> false
}

// The payload of an event is decoded into the callback's type. An invalid payload gets an error
// reply and has no other consequence.
func ExampleOn() {
	type move struct{ X, Y int }
	room, _, end := dial(channel.Define((*guest).join,
		channel.On("move", func(_ *guest, _ context.Context, _ *channel.Channel, m move) (push.Reply, error) {
			return push.OK(m.X + m.Y), nil
		}),
		channel.On("image", func(_ *guest, _ context.Context, _ *channel.Channel, b []byte) (push.Reply, error) {
			return push.OK(len(b)), nil
		})))
	defer end()
	ctx := context.Background()
	fmt.Println(channel.Call[int](ctx, room, "move", map[string]int{"x": 3, "y": 4}))
	fmt.Println(channel.Call[int](ctx, room, "move", "north"))
	fmt.Println(channel.Call[int](ctx, room, "image", serializer.Binary([]byte{0xff, 0xd8})))
	// Output:
	// 7 <nil>
	// 0 push: replied error: invalid payload
	// 2 <nil>
}

// OnAny handles the events that have no On. Without OnAny, they crash the channel.
func ExampleOnAny() {
	room, _, end := dial(channel.Define((*guest).join,
		channel.On("known", func(*guest, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.OK("well known"), nil
		}),
		channel.OnAny(func(
			_ *guest, _ context.Context, _ *channel.Channel, event string, _ serializer.Payload,
		) (push.Reply, error) {
			return push.NoReply, push.Reject("no such event: " + event)
		})))
	defer end()
	for _, event := range []string{"known", "other"} {
		reply, err := room.Push(event, nil).Wait(context.Background())
		fmt.Println(string(reply.Bytes()), err)
	}
	// Output:
	// "well known" <nil>
	//  push: replied error: no such event: other
}

// Terminate releases what the join acquired, however the channel ends.
func ExampleTerminate() {
	ended := make(chan error, 1)
	room, _, end := dial(channel.Define((*guest).join,
		channel.Terminate(func(_ *guest, _ context.Context, _ *channel.Channel, reason error) { ended <- reason })))
	defer end()
	if _, err := room.Leave().Wait(context.Background()); err != nil {
		fmt.Println(err)
	}
	switch reason := <-ended; {
	case errors.Is(reason, channel.ErrLeft):
		fmt.Println("left")
	case errors.Is(reason, channel.ErrClosed):
		fmt.Println("lost the connection:", reason)
	default:
		fmt.Println("crashed, or joined again:", reason)
	}
	// Output: left
}

// A panic ends only its channel. The client receives phx_error without details.
func ExamplePanicError() {
	ended := make(chan error, 1)
	room, _, end := dial(channel.Define((*guest).join,
		channel.On("divide", func(_ *guest, _ context.Context, _ *channel.Channel, by int) (push.Reply, error) {
			return push.OK(100 / by), nil
		}),
		channel.Terminate(func(_ *guest, _ context.Context, _ *channel.Channel, reason error) {
			select {
			case ended <- reason:
			default: // the client joined again, and that channel has ended too
			}
		})))
	defer end()
	_, err := room.Push("divide", 0).Wait(context.Background())
	fmt.Println(errors.Is(err, push.ErrLost))
	var p *channel.PanicError
	if errors.As(<-ended, &p) {
		fmt.Println(p.Value, len(p.Stack) > 0)
	}
	// Output:
	// true
	// runtime error: integer divide by zero true
}

// A reply may wait for another event, even of another client. A Ref identifies the message.
func ExampleRef() {
	type asked struct{ refs []channel.Ref }
	room, _, end := dial(channel.Define(
		func(*asked, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("wait", func(a *asked, _ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			a.refs = append(a.refs, c.Ref())
			return push.NoReply, nil
		}),
		channel.On("go", func(a *asked, _ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			for _, ref := range a.refs {
				if err := c.Reply(ref, push.OK("gone")); err != nil {
					return push.NoReply, err
				}
			}
			a.refs = nil
			return push.OK(nil), nil
		})))
	defer end()
	waiting := room.Push("wait", nil)
	room.Push("go", nil)
	reply, err := waiting.Wait(context.Background())
	fmt.Println(string(reply.Bytes()), err)
	// Output: "gone" <nil>
}

// A channel can subscribe to other topics. It receives their broadcasts, and decides what its
// client receives.
func ExampleChannel_Subscribe() {
	handler, enter, end := serve(channel.Define(
		func(_ *guest, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			c.Subscribe("prices") // until the channel ends
			return nil, nil
		},
		channel.Info(func(_ *guest, _ context.Context, c *channel.Channel, b *pubsub.Broadcast) error {
			var price struct{ Of string }
			if err := b.Payload.Decode(&price); err != nil {
				return err
			}
			if price.Of != "tea" {
				return nil
			}
			return c.Push("price", b.Payload)
		})))
	defer end()
	ctx := context.Background()
	room := enter(nil, nil)
	prices := room.Events("price")
	if _, err := room.Join().Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for _, of := range []string{"gin", "tea"} {
		if err := handler.PubSub().Broadcast(ctx, "prices", "changed", map[string]any{"of": of, "is": 3}); err != nil {
			fmt.Println(err)
		}
	}
	for m, err := range prices {
		fmt.Println(string(m.Payload.Bytes()), err)
		break
	}
	// Output: {"is":3,"of":"tea"} <nil>
}

// Push goes to this client, Broadcast to everyone on the topic, and BroadcastFrom to everyone else.
func ExampleChannel_BroadcastFrom() {
	_, enter, end := serve(channel.Define((*guest).join,
		channel.On("typing", func(_ *guest, _ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.BroadcastFrom("typing", nil)
		}),
		channel.On("say", func(_ *guest, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("said", p)
		})))
	defer end()
	ctx := context.Background()
	ann, bob := enter(nil, nil), enter(nil, nil)
	annEvents, bobEvents := ann.Events("typing", "said"), bob.Events("typing", "said")
	for _, room := range []*channel.Client{ann, bob} {
		if _, err := room.Join().Wait(ctx); err != nil {
			fmt.Println(err)
			return
		}
	}
	ann.Push("typing", nil)
	ann.Push("say", map[string]string{"text": "hello"})
	for m := range bobEvents {
		fmt.Println("bob:", m.Event)
		if m.Event == "said" {
			break
		}
	}
	for m := range annEvents {
		fmt.Println("ann:", m.Event)
		break
	}
	// Output:
	// bob: typing
	// bob: said
	// ann: said
}

// OnEnd lets other code, such as a registry of channels, clean up after a channel.
func ExampleChannel_OnEnd() {
	online := make(chan string, 2)
	room, _, end := dial(channel.Define(
		func(_ *guest, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			online <- "on " + c.Topic()
			if !c.OnEnd(func() { online <- "off " + c.Topic() }) {
				<-online // it has ended already
			}
			return nil, nil
		}))
	defer end()
	fmt.Println(<-online)
	room.Leave()
	fmt.Println(<-online)
	// Output:
	// on room:1
	// off room:1
}

// A generic function returns an option that several handlers share.
func ExampleOption() {
	room, _, end := dial(channel.Define((*guest).join, answersPing[guest]()))
	defer end()
	fmt.Println(channel.Call[string](context.Background(), room, "ping", nil))
	// Output: pong <nil>
}

func answersPing[S any]() channel.Option[S] {
	return channel.On("ping", func(*S, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
		return push.OK("pong"), nil
	})
}

// An exact topic wins over a prefix, and a longer prefix over a shorter one.
func ExampleRoutes() {
	named := func(name string) *channel.Handler {
		return channel.Define(func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return name, nil
		})
	}
	handler := socket.NewHandler(socket.Config{Channels: channel.Routes{
		"room:lobby":   named("the lobby"),
		"room:*":       named("a room"),
		"room:quiet:*": named("a quiet room"),
	}})
	server := httptest.NewServer(handler)
	defer server.Close()
	ctx := context.Background()
	defer handler.Shutdown(ctx)
	client := socket.NewClient(server.URL, nil)
	defer client.Close(ctx)
	client.Connect()
	for _, topic := range []string{"room:lobby", "room:7", "room:quiet:7", "attic"} {
		reply, err := client.Channel(topic, nil).Join().Wait(ctx)
		fmt.Println(topic, string(reply.Bytes()), err)
	}
	// Output:
	// room:lobby "the lobby" <nil>
	// room:7 "a room" <nil>
	// room:quiet:7 "a quiet room" <nil>
	// attic  push: replied error: unmatched topic
}

// Reauthorize decides whether a channel stays when its client has sent another token, logged in or
// logged out. See socket.Auth.
func ExampleReauthorize() {
	type room struct{}
	rooms := channel.Define(
		func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.Reauthorize(func(_ *room, ctx context.Context, c *channel.Channel) error {
			if _, isMember := socket.GrantFrom(ctx); !isMember {
				return push.Reason("members only") // phx_close with this reason
			}
			return nil
		}))
	_, _, end := dial(rooms)
	end()
	// Output:
}
