package brokertest

import (
	"context"
	"testing"
	"time"

	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/will"
)

// WillEngine is an engine with a store of wills.
type WillEngine interface {
	Adapter() pubsub.Adapter
	Wills() will.Store
}

// StartWills runs an engine until the test ends, and returns its store, which works.
func StartWills(t testing.TB, e WillEngine) will.Store {
	t.Helper()
	store := e.Wills()
	pubsubtest.Start(t, pubsub.New(e.Adapter()))
	WaitUntil(t, "connected to the store", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), Timeout)
		defer cancel()
		_, err := store.Lease(ctx, "nobody", 0)
		return err == nil
	})
	return store
}

// Repeat lets faults happen one after the other, with pauses, until stop is called, and as often as
// each of them at least. A test stops it before it ends.
func Repeat(faults ...func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			faults[i%len(faults)]()
			select {
			case <-time.After(300 * time.Millisecond):
			case <-quit:
				if i >= len(faults) {
					return
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}
