package pubsub_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
)

// faulty panics in whatever is asked of it.
type faulty struct{}

func (faulty) Deliver(*pubsub.Broadcast) error { panic("in Deliver") }

// faultyPreparer is a subscriber whose Prepare panics.
type faultyPreparer struct{ pubsub.Subscriber }

func (f faultyPreparer) Preparer() prepare.Preparer[*pubsub.Broadcast] { return f }
func (faultyPreparer) Prepare(*pubsub.Broadcast) (any, error)          { panic("in Prepare") }

func (f faultyPreparer) DeliverPrepared(b *pubsub.Broadcast, _ any) error { return f.Deliver(b) }

// panics keeps what OnPanic functions are called with.
type panics []string

func (p *panics) add(t *testing.T, ps *pubsub.PubSub) (off func()) {
	return ps.OnPanic(func(v any, stack []byte) {
		if !strings.Contains(string(stack), "faulty") && !strings.Contains(string(stack), "func") {
			t.Errorf("the stack is not of the panic:\n%s", stack)
		}
		ps.Subscribe("t", new(topicLog)).Cancel() // no lock is held
		*p = append(*p, v.(string))
	})
}

func (p *panics) take() []string {
	got := *p
	*p = nil
	return got
}

func TestSubscribersThatPanic(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	var told panics
	off := told.add(t, ps)
	first, last := new(topicLog), new(topicLog)
	for _, s := range []pubsub.Subscriber{faulty{}, first, faulty{}, faulty{}, last, faulty{}} {
		ps.Subscribe("t", s)
	}
	for range 2 { // no lock is kept
		err := ps.Broadcast(t.Context(), "t", "e", nil)
		if err == nil || !strings.Contains(err.Error(), "subscriber panicked: in Deliver") {
			t.Errorf("the broadcaster got %v", err)
		}
		if len(first.take()) != 1 || len(last.take()) != 1 {
			t.Error("others were not delivered to once")
		}
		if got := told.take(); !slices.Equal(got, []string{"in Deliver", "in Deliver", "in Deliver", "in Deliver"}) {
			t.Errorf("OnPanic got %q", got)
		}
	}
	off()
	if err := ps.LocalBroadcast("t", "e", nil); err == nil || len(told.take()) != 0 || len(last.take()) != 1 {
		t.Errorf("after off: %v", err)
	}
}

func TestPreparersThatPanic(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	var told panics
	told.add(t, ps)
	l := new(topicLog)
	ps.Subscribe("t", faultyPreparer{l})
	err := ps.Broadcast(t.Context(), "t", "e", nil)
	if err == nil || !strings.Contains(err.Error(), "preparer panicked: in Prepare") {
		t.Errorf("the broadcaster got %v", err)
	}
	if got := told.take(); len(l.take()) != 1 || !slices.Equal(got, []string{"in Prepare"}) {
		t.Errorf("OnPanic got %q", got)
	}
}

// What panics on an adapter's goroutine does not end the process, and others are called.
func TestPanicsAtTheAdapter(t *testing.T) {
	t.Parallel()
	a := &fakeAdapter{interest: make(map[string]int), in: make(chan *pubsub.Broadcast), delivered: make(chan struct{})}
	ps := pubsub.New(a)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- ps.Run(ctx) }()
	var told panics
	told.add(t, ps)
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
	slices.Sort(told)
	got := slices.Compact(told.take())
	if !slices.Equal(got, []string{"in Deliver", "in OnGap", "in Prepare"}) || gaps != 10 || len(l.take()) != 1 {
		t.Errorf("OnPanic got %q, %d calls for gaps", got, gaps)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// brittleAdapter panics at some topics.
type brittleAdapter struct{ *fakeAdapter }

func (a brittleAdapter) Subscribe(topic string) {
	if topic == "bad" {
		panic("in Subscribe")
	}
	a.fakeAdapter.Subscribe(topic)
}

// An adapter that panics leaves nothing locked, and no subscription without the adapter's knowledge.
func TestAdapterThatPanics(t *testing.T) {
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
