package socket_test

import (
	"strings"
	"testing"

	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/socket"
)

// bomb is a subscriber of server code that panics.
type bomb struct{}

func (bomb) Deliver(*pubsub.Broadcast) error { panic("in\x1bDeliver") }

// TestPanicsInPubSubAreLogged checks that a panic of server code on the goroutine of an adapter is
// logged, and that members of the room receive the broadcast.
func TestPanicsInPubSubAreLogged(t *testing.T) {
	t.Parallel()
	cluster := pubsubtest.NewCluster()
	here, _ := runPubSub(t, cluster.Node("here"))
	there, _ := runPubSub(t, cluster.Node("there"))
	here.Subscribe("room:1", bomb{})
	s := serve(t, socket.Config{PubSub: here})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	here.Subscribe("room:1", bomb{})
	if err := there.Broadcast(t.Context(), "room:1", "hello", nil); err != nil {
		t.Fatal(err)
	}
	p.want(`[null,null,"room:1","hello",{}]`)
	if err := here.Broadcast(t.Context(), "room:1", "hello", nil); err == nil {
		t.Error("Broadcast did not return the panic")
	}
	p.want(`[null,null,"room:1","hello",{}]`)
	p.heartbeat()
	if log := s.log.String(); !strings.Contains(log, "pubsub callback crashed") ||
		!strings.Contains(log, `in\\x1bDeliver`) || !strings.Contains(log, "bomb") {
		t.Errorf("the log is %s", log)
	}
	if err := s.h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	before := s.log.String()
	_ = here.LocalBroadcast("room:1", "hello", nil) // panics after the handler has ended
	if after := s.log.String(); after != before {
		t.Errorf("the log has %s", strings.TrimPrefix(after, before))
	}
}
