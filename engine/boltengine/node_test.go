package boltengine_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/rs/zerolog"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
)

// run runs the log of an engine until the test ends, or until the returned function is called,
// which waits for the end of Run.
func run(t testing.TB, e *boltengine.Engine, in history.Inbox) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.History().Run(ctx, in) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	until(t, "connected", func() bool { return e.History().Health().Connected })
	return stop
}

// running returns the log of an engine that runs until the test ends.
func running(t testing.TB, cfg boltengine.Config) history.Log {
	t.Helper()
	e := open(t, cfg)
	run(t, e, history.Inbox{})
	return e.History()
}

// until waits for a condition that nothing signals.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) { // nothing signals it
		if time.Now().After(deadline) {
			t.Fatalf("not %s within a minute", what)
		}
	}
}

func percentile(all []time.Duration, p int) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[(len(all)-1)*p/100]
}

// silent returns a logger for tests in which errors are expected.
func silent() *zerolog.Logger {
	l := zerolog.Nop()
	return &l
}

// fault reads at an address that is not mapped, as of a mapped file that was truncated.
func fault() error {
	var at uintptr = math.MaxUint32 &^ 0xfff
	return errors.New(string(*(*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at)))))
}

func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}
