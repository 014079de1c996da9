package socket_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"bennu.example/channel"
	"bennu.example/internal/wstest"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

type cursor struct {
	User string `json:"user"`
	At   int    `json:"at"`
}

// TestSlowPolicies has a client that does not read for some time. Then it receives the messages
// that the policies of its handler have kept: the newest of each key, and the oldest of those that
// may be dropped. It stays connected. Another client on the topic receives every message without
// delay.
func TestSlowPolicies(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxQueue: 40_000, Channels: channel.Routes{"room:*": echoes(
		channel.OnSlow[nobody]("", transport.DropNewest),
		channel.OnSlow[nobody]("urgent", transport.Inherit),
		channel.Latest[nobody]("moved", func(c cursor) string { return c.User }),
	)}})
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
	quick := s.dial("vsn=2.0.0")
	quick.join("room:1")
	broadcast := func(event string, payload any) {
		t.Helper()
		body, err := json.Marshal(payload)
		if err == nil {
			err = s.h.PubSub().Broadcast(t.Context(), "room:1", event, payload)
		}
		if err != nil {
			t.Fatal(err)
		}
		quick.want(fmt.Sprintf(`[null,null,"room:1",%q,%s]`, event, body))
	}

	ticks := map[string]string{"pad": strings.Repeat("x", 4000)}
	sent := 0
	for full := 0; full < 20; sent++ { // the kernel may still accept something
		dropped := s.h.Stats().WebSocket.Dropped
		broadcast("ticked", ticks)
		if full++; s.h.Stats().WebSocket.Dropped == dropped {
			full = 0
		}
	}
	const rounds = 500
	for i := 1; i <= rounds; i++ {
		broadcast("moved", cursor{"ann", i})
		broadcast("moved", cursor{"bob", i})
	}
	arrived, moved := 0, 0
	for last := map[string]int{}; last["bob"] < rounds; {
		frame, err := stalled.Text()
		if err != nil {
			t.Fatal(err)
		}
		m, err := serializer.V2().ParseClient(serializer.OpText, frame)
		if err != nil {
			t.Fatal(err)
		}
		if m.Event != "moved" {
			arrived++
			continue
		}
		var c cursor
		if err := m.Payload.Decode(&c); err != nil || c.At <= last[c.User] {
			t.Fatalf("%+v after %+v, %v", c, last, err)
		}
		last[c.User] = c.At
		if moved++; c.User == "bob" && c.At == rounds && last["ann"] != rounds {
			t.Errorf("%+v", last)
		}
	}
	st := s.h.Stats().WebSocket
	if st.Dropped != uint64(sent-arrived) || st.Conflated != uint64(2*rounds-moved) || st.Slow != 0 || st.Conflated == 0 {
		t.Errorf("%d of %d and %d of %d arrived: %+v", arrived, sent, moved, 2*rounds, st)
	}

	// A message with the connection's own policy ends it.
	for range 10_000 {
		if s.h.Stats().WebSocket.Slow > 0 {
			break
		}
		broadcast("urgent", ticks)
	}
	for err = nil; err == nil; {
		_, err = stalled.Text()
	}
	if !strings.Contains(err.Error(), "slow consumer") {
		t.Errorf("ended with %v", err)
	}
	quick.heartbeat()
}

func TestSlowPolicyOfAHandler(t *testing.T) {
	t.Parallel()
	for _, cfg := range []socket.Config{
		{OnSlow: transport.KeepLatest}, {OnSlow: transport.KeepLatest + 1},
		{LongPoll: longpoll.Config{OnSlow: transport.KeepLatest}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d: no panic", cfg.OnSlow)
				}
			}()
			socket.NewHandler(cfg)
		}()
	}
}
