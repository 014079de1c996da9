package socket

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/willtimes"
	"bennu.example/push"
	"bennu.example/will"
)

// TestRunWill checks that a handler's own function runs a will, again after each way to fail, and
// not after a refusal.
func TestRunWill(t *testing.T) {
	t.Parallel()
	inWillRig(t, 1, Config{Wills: will.NewMemory()}, func(t *testing.T, r *willRig) {
		var runs []string
		failures := []func(ctx context.Context) error{
			func(context.Context) error { return errors.New("away") },
			func(context.Context) error { panic("broken") },
			func(context.Context) error { runtime.Goexit(); return nil },
			func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			func(context.Context) error { return nil },
		}
		r.run = func(ctx context.Context, w will.Will) error {
			p, _ := w.Payload.JSON()
			runs = append(runs, fmt.Sprint(w.Topic, " ", w.Event, " ", string(p), " ", w.Connection.Subject))
			f := failures[0]
			failures = failures[1:]
			return f(ctx)
		}
		set := func(order uint64) {
			l := r.open(0, "ann", testAnn, order)
			l.send(join("1", "$socket"), join("2", "own:1"))
			sleepTo(0)
			l.taken()
			l.send(willPush("9", "own:1", "gone", `,"payload":{"n":1},"after_ms":0`))
			l.wantKeys(willSet)
			r.lose(l, nil)
		}
		set(1)
		for range 5 {
			sleepTo(2 * willtimes.Default().Hold)
		}
		const want = `own:1 gone {"n":1} ann`
		if len(runs) != 5 || runs[0] != want || runs[4] != want {
			t.Errorf("runs %q", runs)
		}
		if n := r.h[0].Stats().Wills; n != 1 {
			t.Errorf("%d wills ran", n)
		}
		runs, failures = nil, []func(context.Context) error{func(context.Context) error { return push.Reason("no") }}
		set(2)
		sleepTo(time.Minute)
		if len(runs) != 1 {
			t.Errorf("after a refusal: %q", runs)
		}
		if n := strings.Count(r.log.log.String(), "last will failed"); n != 5 {
			t.Errorf("%d failures in the log", n)
		}
	})
}
