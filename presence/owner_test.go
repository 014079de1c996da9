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

// uncomparable is an owner on which == panics.
type uncomparable struct{ _ []int }

func (uncomparable) OnEnd(func()) bool { return true }

// An owner that cannot be compared is refused with an error, and nothing is locked afterwards.
func TestUncomparableOwner(t *testing.T) {
	t.Parallel()
	p := presence.New(pubsub.New(nil), nil)
	for _, o := range []presence.Owner{uncomparable{}, nil} {
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

// Who is present is listed after any number of topics.
func TestManyRooms(t *testing.T) {
	t.Parallel()
	p := presence.New(pubsub.New(nil), nil)
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

// asking is an adapter that asks the Presence when it publishes, as one that logs might.
type asking struct {
	*wire
	p atomic.Pointer[presence.Presence]
}

func (a *asking) Publish(ctx context.Context, node string, b *pubsub.Broadcast) error {
	if p := a.p.Load(); p != nil {
		p.Count(topic)
	}
	return a.wire.Publish(ctx, node, b)
}

// The adapter is called under no lock, also at the end.
func TestCloseLocksNothing(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var net network
			a := &asking{wire: net.adapter("a")}
			p := presence.New(pubsub.New(a), &presence.Config{KeepOnClose: keep})
			time.Sleep(10 * time.Second)
			a.p.Store(p)
			if _, err := p.TrackFor(new(owner), topic, "u1", nil); err != nil {
				t.Error(err)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if sent := net.take(); len(sent) == 0 {
				t.Error("nothing was said")
			}
		})
	}
}
