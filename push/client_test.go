package push_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// owner queues callbacks until run is called.
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

func (o *owner) Cancel() { o.canceled++ }

func (o *owner) run() {
	o.mu.Lock()
	queue := o.queue
	o.queue = nil
	o.mu.Unlock()
	for _, f := range queue {
		f()
	}
}

func newPush(sticky bool) (*owner, *promise.Promise, *push.Push) {
	o, r := new(owner), new(promise.Promise)
	r.Init(o, sticky)
	return o, r, (*push.Push)(r)
}

func payload(n int) serializer.Payload { return serializer.Value(n) }

// listen records the statuses and payloads of the hooks that run.
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

func TestPushHasOneResult(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("channel: %w", push.ErrLost)
	late := fmt.Errorf("channel: %w", push.ErrTimeout)
	for _, test := range []struct {
		name   string
		result promise.Result
		err    error // for errors.Is; nil means none, or an *Error with the status
		hooks  []string
	}{
		{"ok", promise.Result{Status: "ok", Payload: payload(1)}, nil, []string{"ok 1", "ok 1"}},
		{"error", promise.Result{Status: "error", Payload: payload(1)}, nil, []string{"error 1"}},
		{"another", promise.Result{Status: "maybe", Payload: payload(1)}, nil, []string{"maybe 1"}},
		{"timeout", promise.Result{Status: "timeout", Err: late}, push.ErrTimeout, []string{"timeout {}"}},
		{"failed", promise.Result{Status: "failed", Payload: payload(3), Err: refused}, push.ErrLost, []string{"failed 3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, when := range []string{"before", "after"} {
				o, r, p := newPush(false)
				var got *[]string
				all := []string{"ok", "error", "maybe", "timeout", "failed", "ok"}
				if when == "before" {
					got = listen(p, all...)
				}
				if !r.Resolve(test.result) {
					t.Fatal("not the first result")
				}
				if r.Resolve(promise.Result{Status: "ok", Payload: payload(2)}) {
					t.Fatal("a second result was accepted")
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
				case test.result.Status == "ok":
					if text, _ := v.JSON(); err != nil || string(text) != "1" {
						t.Fatal(text, err)
					}
				default:
					if !errors.As(err, &reply) || reply.Status != test.result.Status {
						t.Fatal(err)
					}
				}
				<-p.Done()
			}
		})
	}
}

func TestHooksOfAJoinRunForEveryResult(t *testing.T) {
	t.Parallel()
	o, r, p := newPush(true)
	got := listen(p, "ok", "error")
	r.Resolve(promise.Result{Status: "error", Payload: payload(1)})
	r.Resolve(promise.Result{Status: "ok", Payload: payload(2)})
	more := listen(p, "ok", "error") // the latest result is repeated
	r.Resolve(promise.Result{Status: "ok", Payload: payload(3)})
	o.run()
	if want := []string{"error 1", "ok 2", "ok 3"}; !slices.Equal(*got, want) {
		t.Fatalf("%q", *got)
	}
	if want := []string{"ok 2", "ok 3"}; !slices.Equal(*more, want) {
		t.Fatalf("%q", *more)
	}
	var refused *push.Error
	if _, err := p.Wait(context.Background()); !errors.As(err, &refused) {
		t.Fatalf("Wait returned %v, want the first result", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, r, p := newPush(false)
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
			t.Fatal("Done is closed without a result")
		default:
		}
		p.Cancel()
		for range 2 {
			go func() { _, err := p.Wait(t.Context()); errs <- err }()
		}
		synctest.Wait()
		r.Resolve(promise.Result{Status: "ok"})
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		p.Cancel()
		if o.canceled != 1 {
			t.Fatalf("canceled %d times, want once: Cancel has no effect after the result", o.canceled)
		}
	})
}

func TestConcurrentUse(t *testing.T) { // for the race detector
	t.Parallel()
	o, r, p := newPush(false)
	var wg sync.WaitGroup
	var first, ran sync.Map
	for i := range 8 {
		wg.Go(func() {
			if r.Resolve(promise.Result{Status: "ok", Payload: payload(i)}) {
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
		t.Fatalf("%d first results", n)
	}
	n = 0
	ran.Range(func(any, any) bool { n++; return true })
	if n != 8 {
		t.Fatalf("%d of 8 hooks ran", n)
	}
}
