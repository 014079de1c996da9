package presence_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/presence"
	"bennu.example/pubsub"
)

// incomparable is an owner on which == panics.
type incomparable struct{ _ []int }

func (incomparable) OnEnd(func()) bool { return true }

// TestIncomparableOwner passes owners that are not comparable. Each call fails and leaves no lock
// behind.
func TestIncomparableOwner(t *testing.T) {
	t.Parallel()
	p := presence.New(pubsub.New(nil), presence.Config{})
	for _, o := range []presence.Owner{incomparable{}, nil} {
		if _, err := p.TrackFor(o, topic, "u1", nil); err == nil || !strings.Contains(err.Error(), "not comparable") {
			t.Errorf("track: %v", err)
		}
		if _, err := p.UpdateFor(o, topic, "u1", nil); err == nil {
			t.Error("updated")
		}
		if _, err := presence.ChangeFor(p, o, topic, "u1", func(*struct{}) {}); err == nil {
			t.Error("changed")
		}
		p.UntrackFor(o, topic, "u1")
		p.UntrackAll(o)
	}
	if _, err := p.TrackFor(new(owner), topic, "u1", nil); err != nil || p.Count(topic) != 1 {
		t.Errorf("%d are present: %v", p.Count(topic), err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestManyRooms lists presences when the sequence numbers of rooms are about to be reused.
func TestManyRooms(t *testing.T) {
	t.Parallel()
	p := presence.New(pubsub.New(nil), presence.Config{})
	p.Age(1<<31 - 1)
	for range 3 {
		o := new(owner)
		if _, err := p.TrackFor(o, topic, "u1", nil); err != nil {
			t.Fatal(err)
		}
		page, _ := p.Page(topic, "", 10)
		if list := p.List(topic); list.Len() != 1 || page.Len() != 1 || len(byKey(list)) != 1 {
			t.Errorf("%d are listed, %d on a page", list.Len(), page.Len())
		}
		o.end()
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// reentrant is an adapter that calls the Presence when it publishes.
type reentrant struct {
	*wire
	p atomic.Pointer[presence.Presence]
}

func (a *reentrant) Publish(ctx context.Context, node string, b *pubsub.Broadcast) error {
	if p := a.p.Load(); p != nil {
		p.Count(topic)
	}
	return a.wire.Publish(ctx, node, b)
}

// TestAdapterIsCalledWithoutLock has the adapter call the Presence when it publishes, also in
// Close.
func TestAdapterIsCalledWithoutLock(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var net network
			a := &reentrant{wire: net.adapter("a")}
			p := presence.New(pubsub.New(a), presence.Config{KeepOnClose: keep})
			time.Sleep(10 * time.Second)
			a.p.Store(p)
			if _, err := p.TrackFor(new(owner), topic, "u1", nil); err != nil {
				t.Error(err)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if sent := net.take(); len(sent) == 0 {
				t.Error("nothing was sent")
			}
		})
	}
}
