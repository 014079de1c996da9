package pubsub_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
)

// faulty is a subscriber that panics.
type faulty struct{}

func (faulty) Deliver(*pubsub.Broadcast) error { panic("in Deliver") }

// faultyPreparer is a subscriber whose Prepare panics.
type faultyPreparer struct{ pubsub.Subscriber }

func (f faultyPreparer) Preparer() prepare.Preparer[*pubsub.Broadcast] { return f }
func (faultyPreparer) Prepare(*pubsub.Broadcast) (any, error)          { panic("in Prepare") }

func (f faultyPreparer) DeliverPrepared(b *pubsub.Broadcast, _ any) error { return f.Deliver(b) }

// panics records the arguments of OnPanic functions.
type panics []string

func (p *panics) add(t *testing.T, ps *pubsub.PubSub) (off func()) {
	return ps.OnPanic(func(v any, stack []byte) {
		if !strings.Contains(string(stack), "faulty") && !strings.Contains(string(stack), "func") {
			t.Errorf("the stack is not that of the panic:\n%s", stack)
		}
		ps.Subscribe("t", new(topicLog)).Cancel() // fails if a lock is held
		*p = append(*p, v.(string))
	})
}

func (p *panics) take() []string {
	got := *p
	*p = nil
	return got
}

func TestPanickingSubscriberHarmsNoOther(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	var seen panics
	off := seen.add(t, ps)
	first, last := new(topicLog), new(topicLog)
	for _, s := range []pubsub.Subscriber{faulty{}, first, faulty{}, faulty{}, last, faulty{}} {
		ps.Subscribe("t", s)
	}
	for range 2 { // the second round fails if a lock is still held
		err := ps.Broadcast(t.Context(), "t", "e", nil)
		if err == nil || !strings.Contains(err.Error(), "panic: in Deliver") {
			t.Errorf("the broadcaster got %v", err)
		}
		if len(first.take()) != 1 || len(last.take()) != 1 {
			t.Error("the other subscribers did not receive the broadcast once")
		}
		if got := seen.take(); !slices.Equal(got, []string{"in Deliver", "in Deliver", "in Deliver", "in Deliver"}) {
			t.Errorf("OnPanic got %q", got)
		}
	}
	off()
	if err := ps.LocalBroadcast("t", "e", nil); err == nil || len(seen.take()) != 0 || len(last.take()) != 1 {
		t.Errorf("after off: %v", err)
	}
}

func TestPanickingPreparer(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	var seen panics
	seen.add(t, ps)
	l := new(topicLog)
	ps.Subscribe("t", faultyPreparer{l})
	err := ps.Broadcast(t.Context(), "t", "e", nil)
	if err == nil || !strings.Contains(err.Error(), "panic: in Prepare") {
		t.Errorf("the broadcaster got %v", err)
	}
	if got := seen.take(); len(l.take()) != 1 || !slices.Equal(got, []string{"in Prepare"}) {
		t.Errorf("OnPanic got %q", got)
	}
}

// A panic on a goroutine of the adapter does not end the process.
func TestPanicsDuringReceive(t *testing.T) {
	t.Parallel()
	a := &fakeAdapter{interest: make(map[string]int), in: make(chan *pubsub.Broadcast), delivered: make(chan struct{})}
	ps := pubsub.New(a)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- ps.Run(ctx) }()
	var seen panics
	seen.add(t, ps)
	ps.OnPanic(func(any, []byte) { panic("in OnPanic") })
	gaps := 0
	for range 5 {
		ps.OnGap(func(error) { panic("in OnGap") })
		ps.OnGap(func(error) { gaps++ })
	}
	l := new(topicLog)
	ps.Subscribe("t", faultyPreparer{faulty{}})
	ps.Subscribe("t", l)
	ps.Control().Subscribe("t", faulty{})
	for _, topic := range []string{"t", "\x00ct"} {
		a.in <- &pubsub.Broadcast{Topic: topic, Event: "e"} // and then a gap
		<-a.delivered
	}
	slices.Sort(seen)
	got := slices.Compact(seen.take())
	if !slices.Equal(got, []string{"in Deliver", "in OnGap", "in Prepare"}) || gaps != 10 || len(l.take()) != 1 {
		t.Errorf("OnPanic got %q, %d calls for gaps", got, gaps)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// brittleAdapter panics when the topic "bad" is subscribed to.
type brittleAdapter struct{ *fakeAdapter }

func (a brittleAdapter) Subscribe(topic string) {
	if topic == "bad" {
		panic("in Subscribe")
	}
	a.fakeAdapter.Subscribe(topic)
}

// A panic of the adapter reaches the caller of Subscribe. It leaves no lock and no subscription
// behind.
func TestPanickingAdapter(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(brittleAdapter{&fakeAdapter{interest: make(map[string]int)}})
	for range 2 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("subscribed, though the adapter panicked")
				}
			}()
			ps.Subscribe("bad", new(topicLog))
		}()
	}
	if n := ps.Subscribers("bad"); n != 0 {
		t.Errorf("%d subscribers", n)
	}
	ps.Subscribe("good", new(topicLog)).Cancel()
}
