package push_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"bennu.example/push"
	"bennu.example/serializer"
)

// owner queues callbacks until run.
type owner struct {
	mu       sync.Mutex
	queue    []func()
	canceled int
}

func (o *owner) Call(f func(serializer.Payload), p serializer.Payload) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append(o.queue, func() { f(p) })
}

func (o *owner) Cancel(*push.Push) { o.canceled++ }

func (o *owner) run() {
	o.mu.Lock()
	queue := o.queue
	o.queue = nil
	o.mu.Unlock()
	for _, f := range queue {
		f()
	}
}

func newPush(sticky bool) (*owner, *push.Resolver) {
	o, r := new(owner), new(push.Resolver)
	r.Init(o, sticky)
	return o, r
}

func payload(n int) serializer.Payload { return serializer.Value(n) }

// listen records which hooks ran, with what.
func listen(p *push.Push, statuses ...string) *[]string {
	var got []string
	for _, s := range statuses {
		p.Receive(s, func(v serializer.Payload) {
			text, _ := v.JSON()
			got = append(got, fmt.Sprintf("%s %s", s, text))
		})
	}
	return &got
}

func TestClientAnswers(t *testing.T) { // K240, L258, L261
	t.Parallel()
	refused := fmt.Errorf("channel: %w", push.ErrLost)
	late := fmt.Errorf("channel: %w", push.ErrTimeout)
	for _, test := range []struct {
		name   string
		answer push.Answer
		err    error // by errors.Is; nil: none, or an *Error with the answer's status
		hooks  []string
	}{
		{"ok", push.Answer{Status: "ok", Payload: payload(1)}, nil, []string{"ok 1", "ok 1"}},
		{"error", push.Answer{Status: "error", Payload: payload(1)}, nil, []string{"error 1"}},
		{"another", push.Answer{Status: "maybe", Payload: payload(1)}, nil, []string{"maybe 1"}},
		{"timeout", push.Failed(late), push.ErrTimeout, []string{"timeout {}"}},
		{"failed", push.Failed(refused), push.ErrLost, []string{`failed {"reason":"channel: lost before the reply"}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, when := range []string{"before", "after"} {
				o, r := newPush(false)
				p := r.Push()
				var got *[]string
				all := []string{"ok", "error", "maybe", "timeout", "failed", "ok"}
				if when == "before" {
					got = listen(p, all...)
				}
				if !r.Resolve(test.answer) {
					t.Fatal("not the first answer")
				}
				if r.Resolve(push.Answer{Status: "ok", Payload: payload(2)}) {
					t.Fatal("answered twice")
				}
				if when == "after" {
					got = listen(p, all...)
				}
				if len(*got) > 0 {
					t.Fatal("a hook ran on the caller's goroutine")
				}
				o.run()
				if !slices.Equal(*got, test.hooks) {
					t.Fatalf("%s: hooks %q, want %q", when, *got, test.hooks)
				}
				v, err := p.Wait(context.Background())
				var reply *push.Error
				switch {
				case test.err != nil:
					if !errors.Is(err, test.err) {
						t.Fatal(err)
					}
				case test.answer.Status == "ok":
					if text, _ := v.JSON(); err != nil || string(text) != "1" {
						t.Fatal(text, err)
					}
				default:
					if !errors.As(err, &reply) || reply.Status != test.answer.Status {
						t.Fatal(err)
					}
				}
				<-p.Done()
			}
		})
	}
}

func TestClientStickyHooks(t *testing.T) { // K241
	t.Parallel()
	o, r := newPush(true)
	p := r.Push()
	got := listen(p, "ok", "error")
	r.Resolve(push.Answer{Status: "error", Payload: payload(1)})
	r.Resolve(push.Answer{Status: "ok", Payload: payload(2)})
	more := listen(p, "ok", "error") // the latest answer is replayed
	r.Resolve(push.Answer{Status: "ok", Payload: payload(3)})
	o.run()
	if want := []string{"error 1", "ok 2", "ok 3"}; !slices.Equal(*got, want) {
		t.Fatalf("%q", *got)
	}
	if want := []string{"ok 2", "ok 3"}; !slices.Equal(*more, want) {
		t.Fatalf("%q", *more)
	}
	var refused *push.Error
	if _, err := p.Wait(context.Background()); !errors.As(err, &refused) {
		t.Fatalf("the first answer stays Wait's: %v", err)
	}
}

func TestClientWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, r := newPush(false)
		p := r.Push()
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 3)
		go func() { _, err := p.Wait(ctx); errs <- err }()
		synctest.Wait()
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
			t.Fatal("done without an answer")
		default:
		}
		p.Cancel()
		for range 2 {
			go func() { _, err := p.Wait(t.Context()); errs <- err }()
		}
		synctest.Wait()
		r.Resolve(push.Answer{Status: "ok"})
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		p.Cancel()
		if o.canceled != 1 {
			t.Fatalf("canceled %d times: once before the answer, and not after it", o.canceled)
		}
	})
}

func TestClientManyGoroutines(t *testing.T) { // for the race detector
	t.Parallel()
	o, r := newPush(false)
	p := r.Push()
	var wg sync.WaitGroup
	var first, ran sync.Map
	for i := range 8 {
		wg.Go(func() {
			if r.Resolve(push.Answer{Status: "ok", Payload: payload(i)}) {
				first.Store(i, true)
			}
		})
		wg.Go(func() { p.Receive("ok", func(serializer.Payload) { ran.Store(i, true) }) })
		wg.Go(func() {
			if _, err := p.Wait(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	o.run()
	n := 0
	first.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Fatalf("%d first answers", n)
	}
	n = 0
	ran.Range(func(any, any) bool { n++; return true })
	if n != 8 {
		t.Fatalf("%d of 8 hooks ran", n)
	}
}
