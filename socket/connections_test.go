package socket_test

import (
	"context"
	"strings"
	"testing"

	"bennu.example/channel"
	"bennu.example/internal/wstest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// TestConnections has a client that does not read and whose channel's callback does not return. The
// list shows what waits for both, without the channel $socket.
func TestConnections(t *testing.T) {
	t.Parallel()
	gate, called := make(chan struct{}), make(chan struct{})
	s := serve(t, socket.Config{
		OnSlow: transport.DropNewest, // so that it stays
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			r.ID = "ann"
			return ctx, nil
		},
		Channels: channel.Routes{"room:*": echoes(channel.On("wait",
			func(*nobody, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
				close(called)
				<-gate
				return push.NoReply, nil
			}))},
	})
	if got := len(connections(s.h)); got != 0 {
		t.Fatalf("%d connections before the first", got)
	}
	c, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, topic := range []string{"$socket", "room:1"} {
		if err := c.Send([]byte(`["1","1","` + topic + `","phx_join",{}]`)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Text(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Send([]byte(`["1","2","room:1","wait",{}]`)); err != nil {
		t.Fatal(err)
	}
	<-called
	all := connections(s.h)
	if len(all) != 1 || all[0].Transport != "websocket" || all[0].Subject != "ann" || all[0].ConnectionID == "" {
		t.Fatalf("%+v", all)
	}
	for s.h.Stats().WebSocket.Dropped == 0 { // the kernel may still accept something
		err := s.h.PubSub().Broadcast(t.Context(), "room:1", "tick", map[string]string{"pad": strings.Repeat("x", 100_000)})
		if err != nil {
			t.Fatal(err)
		}
	}
	all = connections(s.h)
	if all[0].Queued < 800_000 {
		t.Errorf("%d bytes wait for a client that does not read", all[0].Queued)
	}
	topics := map[string]int{}
	for topic, mailbox := range all[0].Channels() {
		topics[topic] = mailbox
	}
	if len(topics) != 1 || topics["room:1"] == 0 {
		t.Errorf("channels: %v", topics)
	}
	close(gate)
	all[0].Disconnect()
	for err = nil; err == nil; {
		_, err = c.Text()
	}
	if !strings.Contains(err.Error(), "\\x03\\xe9") {
		t.Errorf("ended with %v", err)
	}
	for range (socket.Connection{}).Channels() {
		t.Error("the zero Connection has a channel")
	}
	socket.Connection{}.Disconnect()
}

// TestConnectionsOfLongPoll checks that what waits for a poll is counted.
func TestConnectionsOfLongPoll(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	client, err := socket.Dial(t.Context(), s.url+"/socket", &socket.ClientConfig{Transport: socket.TransportLongPoll})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	if all := connections(s.h); len(all) != 1 || all[0].Transport != "longpoll" || all[0].Queued > 1000 {
		t.Errorf("%+v", all)
	}
	for range s.h.Connections() {
		break // the iterator must accept it
	}
}

func connections(h *socket.Handler) (all []socket.Connection) {
	for c := range h.Connections() {
		all = append(all, c)
	}
	return all
}
