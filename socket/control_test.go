package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport/longpoll"
)

// tap is an adapter that records what it publishes, which an attacker may know or guess.
type tap struct {
	pubsub.Adapter
	mu        sync.Mutex
	topics    []string
	published []*pubsub.Broadcast
	at        chan struct{} // receives a token after each publication, if there is room
}

func newTap(c *pubsubtest.Cluster, name string) *tap {
	return &tap{Adapter: c.Node(name), at: make(chan struct{}, 1)}
}

func (a *tap) Subscribe(topic string) {
	a.mu.Lock()
	a.topics = append(a.topics, topic)
	a.mu.Unlock()
	a.Adapter.Subscribe(topic)
}

func (a *tap) Publish(ctx context.Context, node string, b *pubsub.Broadcast) error {
	a.mu.Lock()
	a.published = append(a.published, b)
	a.mu.Unlock()
	select {
	case a.at <- struct{}{}:
	default:
	}
	return a.Adapter.Publish(ctx, node, b)
}

func (a *tap) subscribed() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.topics)
}

// relay is a handler for all topics that broadcasts every push of its clients unchanged.
func relay() *channel.Handler {
	return channel.Define(joinOK, channel.OnAny(
		func(_ *nobody, _ context.Context, c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
			for _, send := range []func(string, any) error{c.Broadcast, c.BroadcastFrom} {
				if err := send(event, p); err != nil {
					return push.NoReply, push.Reject(err.Error())
				}
			}
			return push.OK(nil), nil
		}))
}

// attacked is a cluster whose nodes use everything that sends messages between nodes.
type attacked struct {
	nodes  []*server
	taps   []*tap
	lists  []*presence.Presence
	joined []chan string // keys that Presence reported as joined, by node
}

func newAttacked(t *testing.T) *attacked {
	a := new(attacked)
	cluster := pubsubtest.NewCluster()
	for range 2 {
		at := newTap(cluster, "node")
		ps, _ := runPubSub(t, at)
		joined := make(chan string, 100)
		list := presence.New(ps, presence.Config{OnDiff: func(_ string, d presence.Diff, _ presence.State) {
			for key := range d.Joins.All() {
				joined <- key
			}
		}})
		t.Cleanup(func() {
			if err := list.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		cfg := socket.Config{
			PubSub:   ps,
			Channels: channel.Routes{"*": relay()},
			LongPoll: longpoll.Config{Secret: []byte("shared")},
			Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
				var p struct{ User string }
				if err := r.Params.Decode(&p); err != nil {
					return nil, err
				}
				r.ID = "user:" + p.User
				return ctx, nil
			},
		}
		a.nodes, a.taps = append(a.nodes, serve(t, cfg)), append(a.taps, at)
		a.lists, a.joined = append(a.lists, list), append(a.joined, joined)
	}
	return a
}

// track tracks a key on one node and waits until the other node has it.
func (a *attacked) track(t *testing.T, node int, key string) {
	t.Helper()
	if _, err := a.lists[node].TrackFor(new(holder), "room:x", key, nil); err != nil {
		t.Fatal(err)
	}
	for timeout := time.After(patience); ; {
		select {
		case joined := <-a.joined[1-node]:
			if joined == key {
				return
			}
		case <-timeout:
			t.Fatalf("node %d does not have %s", 1-node, key)
		}
	}
}

// holder is the owner of a presence, and never ends.
type holder struct{ _ int }

func (*holder) OnEnd(func()) bool { return true }

// mallory is a client that records the messages that it receives.
type mallory struct {
	t *testing.T
	*socket.Client
	mu  sync.Mutex
	got []string
}

func (a *attacked) mallory(t *testing.T, how socket.ClientTransport) *mallory {
	c := socket.NewClient(a.nodes[0].url+"/socket", &socket.ClientConfig{
		Transport: how, Params: map[string]any{"user": "mallory"},
	})
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	c.Connect()
	return &mallory{t: t, Client: c}
}

// join joins a topic and records its messages.
func (m *mallory) join(topic string) *channel.Client {
	m.t.Helper()
	ch := m.Channel(topic, nil)
	ch.OnMessage(func(msg serializer.Message) {
		if strings.HasPrefix(msg.Event, "phx_") || strings.HasPrefix(msg.Event, "chan_reply_") {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.got = append(m.got, fmt.Sprintf("%q: %s", topic, msg.Event))
	})
	if _, err := ch.Join().Wait(m.t.Context()); err != nil {
		m.t.Fatalf("join %q: %v", topic, err)
	}
	return ch
}

func (m *mallory) push(ch *channel.Client, event string, payload any) {
	m.t.Helper()
	if _, err := ch.Push(event, payload).Wait(m.t.Context()); err != nil {
		m.t.Fatalf("push %s to %q: %v", event, ch.Topic(), err)
	}
}

// received returns the messages that were received so far.
func (m *mallory) received() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.got)
}

// guesses returns topics that might reach the subscriptions of nodes.
func guesses(subscribed ...string) (all []string) {
	for _, topic := range subscribed {
		all = append(all, topic, "\x00c"+topic, "\x00t"+topic)
		if len(topic) > 2 {
			all = append(all, topic[1:], topic[2:])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var transports = map[string]socket.ClientTransport{"websocket": socket.TransportWebSocket,
	"long poll": socket.TransportLongPoll}

// TestControlMessagesAreNotHeard checks that a client that joins topics with the names of the
// nodes' own topics receives none of their messages.
func TestControlMessagesAreNotHeard(t *testing.T) {
	t.Parallel()
	for name, how := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttacked(t)
			m := a.mallory(t, how)
			var last *channel.Client
			for _, guess := range guesses(slices.Concat(a.taps[0].subscribed(), a.taps[1].subscribed())...) {
				last = m.join(guess)
			}
			a.track(t, 1, "ann")
			a.track(t, 0, "bob")
			a.roam(t)
			if err := a.nodes[1].h.Disconnect(t.Context(), "user:nobody"); err != nil {
				t.Fatal(err)
			}
			m.push(last, "last", nil) // earlier messages have arrived before its reply
			for _, got := range m.received() {
				if !strings.HasSuffix(got, ": last") {
					t.Errorf("a client received %s", got)
				}
			}
		})
	}
}

// roam opens a long-poll session on one node and sends a POST for it to the other node.
func (a *attacked) roam(t *testing.T) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var opened, posted struct {
		Status int
		Token  string
	}
	const query = "/socket/longpoll?vsn=2.0.0&user=roamer&token="
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.nodes[0].url+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := getJSON(client, r, &opened); err != nil || opened.Status != 410 {
		t.Fatalf("open: %d, %v", opened.Status, err)
	}
	body := strings.NewReader(`["1","1","room:roam","phx_join",{}]`)
	r, err = http.NewRequestWithContext(t.Context(), http.MethodPost, a.nodes[1].url+query+opened.Token, body)
	if err != nil {
		t.Fatal(err)
	}
	if err := getJSON(client, r, &posted); err != nil || posted.Status != 200 {
		t.Fatalf("post: %d, %v", posted.Status, err)
	}
}

// TestControlMessagesAreNotForged checks that a client that pushes the messages of Presence's nodes
// changes nothing.
func TestControlMessagesAreNotForged(t *testing.T) {
	t.Parallel()
	forged := forgeries(t)
	for name, how := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttacked(t)
			m := a.mallory(t, how)
			for _, guess := range guesses(a.taps[0].subscribed()...) {
				ch := m.join(guess)
				for _, b := range forged {
					m.push(ch, b.Event, b.Payload)
				}
			}
			a.track(t, 0, "ann") // arrives after all earlier messages
			a.track(t, 1, "bob")
			for i, list := range a.lists {
				if now := list.List("room:x"); now.Len() != 2 {
					t.Errorf("node %d: present are %v", i, now)
				}
			}
		})
	}
}

// forgeries returns the messages that a node of another cluster sent about a presence.
func forgeries(t *testing.T) []*pubsub.Broadcast {
	at := newTap(pubsubtest.NewCluster(), "evil")
	ps, stop := runPubSub(t, at)
	defer stop()
	list := presence.New(ps, presence.Config{})
	if _, err := list.TrackFor(new(holder), "room:x", "forged", nil); err != nil {
		t.Fatal(err)
	}
	isForged := func(b *pubsub.Broadcast) bool { return strings.Contains(string(b.Payload.Bytes()), "forged") }
	for {
		select {
		case <-at.at:
		case <-time.After(patience):
			t.Fatal("nothing was published")
		}
		at.mu.Lock()
		published := slices.Clone(at.published)
		at.mu.Unlock()
		if slices.ContainsFunc(published, isForged) {
			if err := list.Close(t.Context()); err != nil {
				t.Error(err)
			}
			return published
		}
	}
}

// TestDisconnectIsNotRelayed checks that a client that sends "disconnect" on a topic that equals
// another user's id does not end that user's sockets, and that server code that broadcasts it does.
func TestDisconnectIsNotRelayed(t *testing.T) {
	t.Parallel()
	for name, how := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttacked(t)
			const vsn = "vsn=2.0.0&user="
			ann := []*peer{a.nodes[0].dial(vsn + "ann"), a.nodes[1].dial(vsn + "ann")}
			m := a.mallory(t, how)
			for _, topic := range []string{"user:ann", "bennu:disconnect:user:ann", "\x00cbennu:disconnect:user:ann"} {
				m.push(m.join(topic), "disconnect", nil)
			}
			a.track(t, 0, "ann") // arrives after all earlier messages
			for _, p := range ann {
				p.heartbeat()
			}
			ps := a.nodes[0].h.PubSub()
			if err := ps.LocalBroadcast("user:ann", "disconnect", nil); err != nil {
				t.Error(err)
			}
			ann[0].wantClose(1001)
			ann[1].heartbeat()
			if err := ps.Broadcast(t.Context(), "user:ann", "disconnect", nil); err != nil {
				t.Error(err)
			}
			ann[1].wantClose(1001)
		})
	}
}

// TestReservedEventsAreNotRelayed checks that a client cannot close other clients' channels, reply
// to their pushes or forge their presence lists through a handler that relays events.
func TestReservedEventsAreNotRelayed(t *testing.T) {
	t.Parallel()
	for name, how := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttacked(t)
			victims := []*peer{a.nodes[0].dial("vsn=2.0.0&user=ann"), a.nodes[1].dial("vsn=2.0.0&user=bob")}
			for _, p := range victims {
				p.join("room:x")
			}
			m := a.mallory(t, how)
			ch := m.join("room:x")
			for _, event := range []string{"phx_close", "phx_error", "phx_reply", "presence_state", "presence_diff",
				"chan_reply_2", "$kick"} {
				_, err := ch.Push(event, map[string]any{}).Wait(t.Context())
				var refused *push.Error
				if !errors.As(err, &refused) || refused.Reason() != "reserved event" {
					t.Errorf("push %s: %v", event, err)
				}
			}
			m.push(ch, "hello", nil) // arrives after all earlier messages
			for _, p := range victims {
				for range 2 {
					p.want(`[null,null,"room:x","hello",{}]`)
				}
				p.heartbeat()
			}
		})
	}
}
