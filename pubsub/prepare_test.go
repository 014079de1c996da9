package pubsub_test

import (
	"errors"
	"slices"
	"testing"

	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
)

// preparer returns the number of its calls.
type preparer struct {
	ps    *pubsub.PubSub
	calls int
	err   error
}

func (p *preparer) Prepare(b *pubsub.Broadcast) (any, error) {
	p.ps.Subscribe(b.Topic, new(topicLog)).Cancel() // fails if a lock is held
	p.calls++
	return p.calls, p.err
}

// prepared records the values that it receives. A Deliver without a value is recorded as "deliver".
type prepared struct {
	by  prepare.Preparer[*pubsub.Broadcast]
	got []any
}

func (p *prepared) Preparer() prepare.Preparer[*pubsub.Broadcast] { return p.by }

func (p *prepared) Deliver(*pubsub.Broadcast) error {
	p.got = append(p.got, "deliver")
	return nil
}

func (p *prepared) DeliverPrepared(_ *pubsub.Broadcast, value any) error {
	p.got = append(p.got, value)
	return nil
}

func TestPrepareRunsOncePerBroadcast(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	x, y := &preparer{ps: ps}, &preparer{ps: ps}
	a, b, c, none, elsewhere := &prepared{by: x}, &prepared{by: x}, &prepared{by: y}, new(prepared), &prepared{by: y}
	subs := []*pubsub.Subscription{ps.Subscribe("room:1", a), ps.Subscribe("room:1", b), ps.Subscribe("room:1", c)}
	ps.Subscribe("room:1", none)
	ps.Subscribe("room:2", elsewhere)
	broadcast := func(want error) {
		t.Helper()
		if err := ps.Broadcast(t.Context(), "room:1", "said", nil); !errors.Is(err, want) {
			t.Errorf("Broadcast: %v, want %v", err, want)
		}
	}
	broadcast(nil)
	subs[1].Cancel()
	subs[1].Cancel()
	broadcast(nil)
	y.err = errors.New("not today")
	broadcast(y.err) // all subscribers receive it, c without a value
	subs[0].Cancel()
	subs[2].Cancel()
	broadcast(nil)
	for _, test := range []struct {
		name      string
		got, want []any
	}{
		{"a", a.got, []any{1, 2, 3}},
		{"b, which shares a's preparer", b.got, []any{1}},
		{"c, whose preparer fails", c.got, []any{1, 2, nil}},
		{"without a preparer", none.got, []any{"deliver", "deliver", "deliver", "deliver"}},
		{"on another topic", elsewhere.got, nil},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, test.got, test.want)
		}
	}
	if x.calls != 3 || y.calls != 3 {
		t.Errorf("Prepare was called %d and %d times, want 3 and 3", x.calls, y.calls)
	}
}
