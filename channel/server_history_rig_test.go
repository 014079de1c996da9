package channel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// client is a client without a network that knows about history.
type client struct {
	*carrier
	t  *testing.T
	id string

	mu      sync.Mutex
	room    int // frames of Delivery.IfRoom that the connection takes; negative: any number
	waiting []channelhost.Channel
	most    int // the largest number of drivers that waited

	sent  int    // frames of Delivery.IfRoom
	atTen func() // Called when the tenth was sent. Nil means that nothing is called.

	d   channelhost.Channel
	ref int
}

func newClient(t *testing.T, ps *pubsub.PubSub) *client {
	return &client{carrier: newCarrier(ps), t: t, room: -1}
}

func (c *client) ClientID() string { return c.id }

func (c *client) Send(f *serializer.Frame, how transport.Delivery) error {
	c.mu.Lock()
	if how.IfRoom && c.room == 0 {
		c.mu.Unlock()
		return transport.ErrNoRoom
	}
	if how.IfRoom && c.room > 0 {
		c.room--
	}
	if how.IfRoom {
		c.sent++
	}
	ten := how.IfRoom && c.sent == 10 && c.atTen != nil
	c.mu.Unlock()
	err := c.carrier.Send(f, how)
	if ten {
		c.atTen()
	}
	return err
}

func (c *client) Drained(d channelhost.Channel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room != 0 {
		return true
	}
	if slices.Contains(c.waiting, d) {
		c.t.Error("a channel waits twice for its connection")
	}
	c.waiting = append(c.waiting, d)
	c.most = max(c.most, len(c.waiting))
	return false
}

// drain makes room for n frames.
func (c *client) drain(n int) {
	c.mu.Lock()
	c.room = n
	waiting := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	for _, d := range waiting {
		d.ReadOn()
	}
}

// join joins room:1 with the given params.
func (c *client) join(h *channel.Handler, params string) {
	c.t.Helper()
	c.ref++
	ref := serializer.StringRef(fmt.Sprint(c.ref))
	c.d = join(c, channelhost.Join{Handler: h, Message: serializer.Message{
		JoinRef: ref, Ref: ref, Topic: "room:1", Event: serializer.EventJoin, Payload: received(c.t, params),
	}})
}

// received returns the payload of a message from a client.
func received(t *testing.T, raw string) serializer.Payload {
	t.Helper()
	p, err := serializer.Value(json.RawMessage(raw)).Encoded()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// push pushes an event.
func (c *client) push(event, payload string) {
	c.t.Helper()
	c.ref++
	m := serializer.Message{
		Ref: serializer.StringRef(fmt.Sprint(c.ref)), Topic: "room:1", Event: event, Payload: received(c.t, payload),
	}
	if !receive(c.d, m, time.Second) {
		c.t.Errorf("the channel is gone for %s", event)
	}
}

// leave ends the connection.
func (c *client) leave() {
	c.t.Helper()
	c.d.Close(errors.New("the network is gone"))
	c.d.Wait()
}

// message is a frame as a client reads it.
type message struct {
	event, pos, payload string
	status              string
	history             map[string]any
}

// messages returns what was sent since the last call.
func (c *client) messages() (list []message) {
	c.t.Helper()
	for _, f := range c.take() {
		m, err := c.ser.ParseClient(serializer.OpText, []byte(f))
		if err != nil {
			if m, err = c.ser.ParseClient(serializer.OpBinary, []byte(f)); err != nil {
				c.t.Fatalf("frame %q: %v", f, err)
			}
		}
		msg := message{event: m.Event, status: m.Status}
		value, rest, _ := m.Payload.Cut("$pos")
		_ = value.Decode(&msg.pos)
		value, rest, found := rest.Cut("$history")
		if found {
			if err := value.Decode(&msg.history); err != nil {
				c.t.Fatalf("frame %q: %v", f, err)
			}
		}
		if rest.IsBinary() {
			msg.payload = "binary " + string(rest.Bytes())
		} else if raw, err := rest.JSON(); err == nil {
			msg.payload = string(raw)
		}
		list = append(list, msg)
	}
	return list
}

// joined joins with $history and returns its part of the reply.
func (c *client) joined(h *channel.Handler, ask string) map[string]any {
	c.t.Helper()
	c.join(h, `{"$history":`+ask+`}`)
	list := c.messages()
	if len(list) == 0 || list[0].event != "phx_reply" || list[0].status != "ok" || list[0].history == nil {
		c.t.Fatalf("the reply to a join with %s is %+v", ask, list)
	}
	if len(list) > 1 {
		c.t.Fatalf("after the reply to a join with %s comes %+v", ask, list[1:])
	}
	return list[0].history
}

// texts renders messages in a short form: event payload.
func texts(list []message) (s []string) {
	for _, m := range list {
		s = append(s, strings.TrimSpace(m.event+" "+m.payload))
	}
	return s
}

// numbers returns the payloads {"n":…} of the messages of an event.
func numbers(t *testing.T, list []message, event string) (ns []int) {
	t.Helper()
	for _, m := range list {
		if m.event != event {
			continue
		}
		var p struct{ N int }
		if err := json.Unmarshal([]byte(m.payload), &p); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		ns = append(ns, p.N)
	}
	return ns
}

func upTo(first, last int) (ns []int) {
	for n := first; n <= last; n++ {
		ns = append(ns, n)
	}
	return ns
}

// recordedTopic returns a PubSub that records room:*.
func recordedTopic(keep history.Keep) *pubsub.PubSub {
	return pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": keep})
}

// broadcastN broadcasts {"n":first} to {"n":last}.
func broadcastN(t *testing.T, ps *pubsub.PubSub, event string, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		if err := ps.Broadcast(t.Context(), "room:1", event, map[string]int{"n": n}); err != nil {
			t.Fatal(err)
		}
	}
}

// plainRoom accepts every join.
func plainRoom(options ...channel.Option[nobody]) *channel.Handler {
	return channel.Define(replies(nil), options...)
}

// replies returns a join callback that accepts with a reply.
func replies(reply any) func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
	return func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) { return reply, nil }
}

// onPush is channel.On for callbacks that need neither state nor context.
func onPush(event string, f func(c *channel.Channel, p serializer.Payload) (push.Reply, error)) channel.Option[nobody] {
	return channel.On(event,
		func(_ *nobody, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return f(c, p)
		})
}

// intercept is channel.Intercept for the same.
func intercept(event string, f func(c *channel.Channel, p serializer.Payload) error) channel.Option[nobody] {
	return channel.Intercept(event,
		func(_ *nobody, _ context.Context, c *channel.Channel, p serializer.Payload) error { return f(c, p) })
}

type nobody struct{}

// bubble runs a test in virtual time. The clients' connections end before it does.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
