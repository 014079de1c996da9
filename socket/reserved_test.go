package socket

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// TestReservedEventsReachNoClient lets clients join and push what they like, and server code
// broadcast and control what it likes. No client receives a reserved event, except those of $socket
// itself and one that its handler intercepts and sends under another name.
func TestReservedEventsReachNoClient(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) { reservedRun(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func reservedRun(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	topic := func() string {
		return pick("room:1", "ann", "bob", "bennu:members", "bennu:disconnect:ann", "\x00cbennu:members", "secret",
			"$socket", "$", "$x")
	}
	escaped := func() string { return strings.ReplaceAll(topic(), "\x00", `\u0000`) }
	event := func() string {
		return pick("$kick", "kick", "$revoke", "revoke", "$reauthorize", "reauthorize", "$", "$x", "$secret",
			"disconnect", "say")
	}
	type payload = serializer.Payload
	relay := func(_ *member, _ context.Context, c *channel.Channel, event string, p payload) (push.Reply, error) {
		_ = c.Broadcast(event, p) // reserved ones are an error
		_ = c.BroadcastFrom(event, p)
		_ = c.Push(event, p)
		return push.OK(nil), nil
	}
	routes := channel.Routes{
		"*": channel.Define(joinMember, channel.OnAny(relay)),
		"secret": channel.Define(joinMember, channel.OnAny(relay), channel.Intercept("$secret",
			func(_ *member, _ context.Context, c *channel.Channel, p serializer.Payload) error {
				return c.Push("revealed", p)
			})),
	}
	ps := pubsub.New(nil)
	ann := newAuthLineOn(t, ps, Auth{Anonymous: true}, "ann.0", routes)
	eve := newAuthLineOn(t, ps, Auth{Anonymous: true}, "", routes)
	defer ann.end()
	defer eve.end()
	lines := []*authLine{ann, eve}
	ctx := t.Context()
	do := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for step := range 60 {
		l := lines[rnd.IntN(2)]
		switch rnd.IntN(8) {
		case 0, 1:
			l.send(join(fmt.Sprint(step), escaped()))
		case 2, 3:
			l.send(fmt.Sprintf(`[null,"%d","%s",%q,{"topic":"room:1","id":"ann","reason":"forged"}]`, step, escaped(), event()))
		case 4:
			do(ps.Broadcast(ctx, topic(), pick("$kick", "$revoke", "$reauthorize", "$", "$x", "$secret"), nil))
		case 5:
			do(ps.LocalBroadcast(topic(), pick("$kick", "$revoke", "$secret"), nil))
		case 6:
			do(l.h.Kick(ctx, topic(), Member{ID: pick("", "ann", "nobody")}, "kicked"))
		case 7:
			id := pick("nobody", "bennu:members", "room:1")
			do(l.h.Revoke(ctx, id, "gone"))
			do(l.h.Disconnect(ctx, id))
			do(l.h.Reauthorize(ctx, pick("ann", "nobody")))
		}
	}
	for _, l := range lines {
		l.wantCloses()
		for _, frame := range l.take() {
			m, err := serializer.V2().ParseClient(serializer.OpText, []byte(frame))
			if err != nil {
				t.Fatal(err)
			}
			answers := m.Event == "phx_reply" || m.Event == "phx_close"
			if strings.HasPrefix(m.Event, "$") || strings.HasPrefix(m.Topic, "$") && !answers {
				t.Errorf("a client received %s", frame)
			}
			if strings.HasPrefix(m.Topic, "$") && m.Topic != topicSocket && !strings.Contains(frame, "unmatched topic") {
				t.Errorf("a client joined %s", frame)
			}
			if strings.Contains(frame, "forged") && strings.Contains(frame, "phx_close") {
				t.Errorf("a client ended a channel: %s", frame)
			}
		}
	}
}

func joinMember(*member, context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return nil, nil
}
