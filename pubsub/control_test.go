package pubsub_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"bennu.example/pubsub"
)

// topicLog records the topics and events that are delivered.
type topicLog struct{ got []string }

func (l *topicLog) Deliver(b *pubsub.Broadcast) error {
	l.got = append(l.got, b.Topic+"/"+b.Event)
	return nil
}

func (l *topicLog) take() []string {
	got := l.got
	l.got = nil
	return got
}

// reservedNames contain the bytes that distinguish control topics from topics.
var reservedNames = []string{
	"", "t", "c", "\x00", "\x00t", "\x00c", "\x00\x00", "\x00ct", "\x00tt", "\x00t\x00t", "\x00c\x00c", "bennu:x",
}

func TestControlTopicsAreNotTopics(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	all := make(map[[2]string]*topicLog)
	for _, name := range reservedNames {
		for _, kind := range []string{"topic", "control"} {
			l := new(topicLog)
			all[[2]string{kind, name}] = l
			if kind == "topic" {
				ps.Subscribe(name, l)
			} else {
				ps.Control().Subscribe(name, l)
			}
		}
	}
	for _, name := range reservedNames {
		for kind, send := range map[string]func() error{
			"topic":   func() error { return ps.Broadcast(t.Context(), name, "e", nil) },
			"control": func() error { return ps.Control().Broadcast(t.Context(), name, "e", nil) },
		} {
			if err := send(); err != nil {
				t.Fatal(err)
			}
			for to, l := range all {
				var want []string
				if to == [2]string{kind, name} {
					want = []string{name + "/e"}
				}
				if got := l.take(); !slices.Equal(got, want) {
					t.Errorf("broadcast on %s %q: %s %q got %q, want %q", kind, name, to[0], to[1], got, want)
				}
			}
		}
		if ps.Subscribers(name) != 1 || ps.Control().Subscribers(name) != 1 {
			t.Errorf("%q: %d and %d subscribers", name, ps.Subscribers(name), ps.Control().Subscribers(name))
		}
	}
}

// The adapter sees a different key for each topic and control topic.
func TestAdapterKeepsControlTopicsApart(t *testing.T) {
	t.Parallel()
	a := &fakeAdapter{interest: make(map[string]int), in: make(chan *pubsub.Broadcast), delivered: make(chan struct{})}
	ps := pubsub.New(a)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- ps.Run(ctx) }()
	topics, controls := new(topicLog), new(topicLog)
	var subs []*pubsub.Subscription
	for _, name := range reservedNames {
		subs = append(subs, ps.Subscribe(name, topics), ps.Control().Subscribe(name, controls))
	}
	if len(a.interest) != 2*len(reservedNames) {
		t.Errorf("the adapter has %d keys, want %d: %v", len(a.interest), 2*len(reservedNames), a.interest)
	}
	for _, name := range reservedNames {
		for _, send := range []func() error{
			func() error { return ps.Broadcast(ctx, name, "e", nil) },
			func() error { return ps.SendTo(ctx, "b", name, "e", nil) },
			func() error { return ps.Control().Broadcast(ctx, name, "e", nil) },
			func() error { return ps.Control().SendTo(ctx, "b", name, "e", nil) },
		} {
			topics.take()
			controls.take()
			if err := send(); err != nil {
				t.Fatal(err)
			}
			local := [2][]string{topics.take(), controls.take()}
			topic := strings.TrimSuffix(strings.SplitN(a.published[len(a.published)-1], "/", 2)[1], "/e")
			if a.interest[topic] != 1 {
				t.Fatalf("%q was published as %q, to which the adapter is not subscribed", name, topic)
			}
			a.in <- &pubsub.Broadcast{Topic: topic, Event: "e"}
			<-a.delivered
			if back := [2][]string{topics.take(), controls.take()}; local[0] != nil || local[1] != nil {
				if !slices.Equal(back[0], local[0]) || !slices.Equal(back[1], local[1]) {
					t.Errorf("%q: delivered %q here and %q at another node", name, local, back)
				}
			} else if len(back[0])+len(back[1]) != 1 {
				t.Errorf("%q sent to another node: delivered %q", name, back)
			}
		}
	}
	for _, topic := range []string{"\x00", "\x00x", "\x00t", "\x00tx"} { // no PubSub publishes these
		a.in <- &pubsub.Broadcast{Topic: topic, Event: "e"}
		<-a.delivered
	}
	if got := append(topics.take(), controls.take()...); got != nil {
		t.Errorf("malformed topics were delivered: %q", got)
	}
	for _, s := range subs {
		s.Cancel()
	}
	for topic, n := range a.interest {
		if n != 0 {
			t.Errorf("the adapter is still subscribed to %q", topic)
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// Broadcasts by server code close the sockets of an id. BroadcastFrom does not, because it may
// relay an event of a client.
func TestDisconnectEventClosesSockets(t *testing.T) {
	t.Parallel()
	a := &fakeAdapter{interest: make(map[string]int)}
	ps := pubsub.New(a)
	ids, topics := new(topicLog), new(topicLog)
	ps.Control().Subscribe("bennu:disconnect:u", ids)
	ps.Subscribe("u", topics)
	ctx := t.Context()
	for name, test := range map[string]struct {
		send              func() error
		closes, publishes int
	}{
		"Broadcast":          {func() error { return ps.Broadcast(ctx, "u", "disconnect", nil) }, 1, 2},
		"LocalBroadcast":     {func() error { return ps.LocalBroadcast("u", "disconnect", nil) }, 1, 0},
		"SendTo":             {func() error { return ps.SendTo(ctx, ps.Node(), "u", "disconnect", nil) }, 1, 0},
		"BroadcastFrom":      {func() error { return ps.BroadcastFrom(ctx, nil, "u", "disconnect", nil) }, 0, 1},
		"another event":      {func() error { return ps.Broadcast(ctx, "u", "disconnected", nil) }, 0, 1},
		"an event by SendTo": {func() error { return ps.SendTo(ctx, ps.Node(), "u", "e", nil) }, 0, 0},
	} {
		a.published = nil
		if err := test.send(); err != nil {
			t.Error(err)
		}
		if n := len(ids.take()); n != test.closes {
			t.Errorf("%s: the id got %d events, want %d", name, n, test.closes)
		}
		if n := len(topics.take()); n != 1 {
			t.Errorf("%s: the topic got %d events, want 1", name, n)
		}
		if n := len(a.published); n != test.publishes {
			t.Errorf("%s: published %q, want %d", name, a.published, test.publishes)
		}
	}
	a.published = nil
	if err := ps.SendTo(ctx, "b", "u", "disconnect", nil); err != nil || len(a.published) != 2 {
		t.Errorf("to another node: %v, published %q", err, a.published)
	}
	a.err = errors.New("queue full")
	if err := ps.Broadcast(ctx, "u", "disconnect", nil); !errors.Is(err, a.err) {
		t.Errorf("Broadcast returned %v, want the error of the adapter", err)
	}
}

// TestTopicsLists checks that control topics and those that nobody subscribes to are left out.
func TestTopicsLists(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	want := make(map[string]int)
	for i, name := range reservedNames {
		ps.Control().Subscribe(name, new(topicLog))
		gone := ps.Subscribe("gone:"+name, new(topicLog))
		want[name] = i + 1
		for range want[name] {
			ps.Subscribe(name, new(topicLog))
		}
		gone.Cancel()
	}
	got := make(map[string]int)
	ps.Control().Topics(func(topic string, subscribers int) { got[topic] += subscribers })
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
