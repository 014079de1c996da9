package socket_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/wstest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/stream"
	"bennu.example/transport"
)

// TestSlowestFindsClientsThatStopReading has two clients that stop reading, one of them on long
// poll, and one whose callback does not return. A fourth has no backlog.
func TestSlowestFindsClientsThatStopReading(t *testing.T) {
	t.Parallel()
	gate, called := make(chan struct{}), make(chan *channel.Channel, 1)
	s := serve(t, socket.Config{
		OnSlow: transport.DropNewest, // so that they stay
		Channels: channel.Routes{"room:*": echoes(channel.On("wait",
			func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				called <- c
				<-gate
				return push.NoReply, nil
			}))},
	})
	defer close(gate)
	if got := s.h.Slowest(10); len(got) > 0 {
		t.Errorf("backlogs of no clients: %+v", got)
	}
	stalled, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if err := stalled.Send([]byte(`["1","1","room:1","phx_join",{}]`)); err != nil {
		t.Fatal(err)
	}
	if _, err := stalled.Text(); err != nil {
		t.Fatal(err)
	}
	busy, idle := s.dial("vsn=2.0.0"), s.dial("vsn=2.0.0")
	busy.join("room:2")
	idle.join("room:3")
	busy.send(`["1","2","room:2","wait",{}]`)
	c := <-called
	for range 3 {
		busy.send(fmt.Sprintf(`["1","3","room:2","echo",{"pad":%q}]`, strings.Repeat("x", 10_000)))
	}
	// Again and again, because the kernel may still accept something, and because others enqueue the
	// events, write the frames and note since when they wait.
	begun := time.Now()
	var got []stream.Stats
	for s.h.Stats().WebSocket.Dropped == 0 || len(got) < 2 || got[0].Bytes < 800_000 || got[0].Oldest == 0 ||
		got[1].Count < 4 {
		err := s.h.PubSub().Broadcast(t.Context(), "room:1", "tick", map[string]string{"pad": strings.Repeat("x", 100_000)})
		if err != nil {
			t.Fatal(err)
		}
		got = s.h.Slowest(10)
	}
	if len(got) != 2 || got[0].Kind != stream.Outgoing || got[0].Socket == "" || got[0].Topic != "" ||
		got[0].Count < 8 || got[0].Oldest < 0 || got[0].Oldest > 2*time.Since(begun) {
		t.Errorf("of the client that does not read: %+v", got)
	}
	if m := got[1]; m.Kind != stream.Mailbox || m.Topic != "room:2" || m.Count != 4 || m.Bytes < 30_000 ||
		m.Socket == "" || m.Socket == got[0].Socket {
		t.Errorf("of the callback that does not return: %+v", m)
	}
	if own := c.Backlogs(); len(own) != 2 || own[0].Kind != stream.Mailbox || own[0].Bytes != got[1].Bytes ||
		own[1].Kind != stream.Outgoing || own[1].Bytes != 0 || own[1].Socket != own[0].Socket {
		t.Errorf("of the channel: %+v", own)
	}
	if one := s.h.Slowest(1); len(one) != 1 || one[0].Kind != stream.Outgoing {
		t.Errorf("the slowest: %+v", one)
	}
	if none := s.h.Slowest(0); len(none) > 0 {
		t.Errorf("none were wanted: %+v", none)
	}
}

// TestSlowestOfManySockets checks that the largest backlogs are kept, and in order.
func TestSlowestOfManySockets(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	var want int
	for i := range 12 {
		l := s.poll("")
		for range i + 1 {
			l.post(`[null,"1","phoenix","heartbeat",{}]`) // nobody polls for the replies
		}
		want = i + 1
	}
	got := s.h.Slowest(3)
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, m := range got {
		if m.Kind != stream.Outgoing || m.Count != want-i || m.Oldest <= 0 {
			t.Errorf("%d: %+v", i, m)
		}
	}
}
