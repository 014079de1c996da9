package pubsub_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
)

// uncomparable implements Subscriber and Preparer, but == panics on it.
type uncomparable struct {
	delivered, prepared, sum *atomic.Int32
	_                        []int
}

func newUncomparable() uncomparable {
	return uncomparable{delivered: new(atomic.Int32), prepared: new(atomic.Int32), sum: new(atomic.Int32)}
}

func (u uncomparable) Deliver(*pubsub.Broadcast) error { u.delivered.Add(1); return nil }

func (u uncomparable) Preparer() prepare.Preparer[*pubsub.Broadcast] { return u }

func (u uncomparable) Prepare(*pubsub.Broadcast) (any, error) { return u.prepared.Add(1), nil }

func (u uncomparable) DeliverPrepared(_ *pubsub.Broadcast, value any) error {
	u.delivered.Add(1)
	u.sum.Add(value.(int32))
	return nil
}

// wrapped is comparable if its value is.
type wrapped struct{ any }

func (wrapped) Deliver(*pubsub.Broadcast) error { return nil }

func TestBroadcastFromRejectsUncomparableSubscribers(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	u := newUncomparable()
	ps.Subscribe("t", u)
	ps.Subscribe("t", wrapped{[]int{1}})
	for _, from := range []pubsub.Subscriber{u, wrapped{[]int{1}}, wrapped{u}} {
		err := ps.BroadcastFrom(context.Background(), from, "t", "e", nil)
		if err == nil || !strings.Contains(err.Error(), "is not comparable") {
			t.Errorf("from %T: %v", from, err)
		}
	}
	if n := u.delivered.Load(); n != 0 {
		t.Errorf("%d broadcasts were delivered in spite of the error", n)
	}
	for _, from := range []pubsub.Subscriber{nil, wrapped{1}, wrapped{}, &wrapped{u}} {
		if err := ps.BroadcastFrom(context.Background(), from, "t", "e", nil); err != nil {
			t.Errorf("from %T: %v", from, err)
		}
	}
	if n := u.delivered.Load(); n != 4 {
		t.Errorf("%d broadcasts were delivered, want 4", n)
	}
}

func TestUncomparablePreparersAreNotShared(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	u := newUncomparable()
	subs := []*pubsub.Subscription{ps.Subscribe("t", u), ps.Subscribe("t", u)}
	if err := ps.Broadcast(context.Background(), "t", "e", nil); err != nil {
		t.Error(err)
	}
	// Each subscription gets the value that was computed for it.
	if d, p, sum := u.delivered.Load(), u.prepared.Load(), u.sum.Load(); d != 2 || p != 2 || sum != 1+2 {
		t.Errorf("delivered %d times, prepared %d times, sum of the values %d", d, p, sum)
	}
	for _, s := range subs {
		s.Cancel()
	}
	if n := ps.Subscribers("t"); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}
