package brokertest

import (
	"context"
	"errors"
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

// CheckWills checks that two nodes share the wills, and that these survive what between does to the
// store, which may be away for a moment.
func CheckWills(t testing.TB, a, b will.Store, between func()) {
	t.Helper()
	const node, topic, hold = "node-of-the-test", "room", time.Second
	do := func(what string, f func(ctx context.Context) error) {
		t.Helper()
		var err error
		defer func() {
			if err != nil {
				t.Logf("%s: %v", what, err)
			}
		}()
		WaitUntil(t, what, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), Timeout)
			defer cancel()
			err = f(ctx)
			return err == nil
		})
	}
	set := func(id string) will.Will {
		t.Helper()
		w := will.Will{
			ID: id, Topic: topic, Event: "gone", Node: node,
			Connection: will.Connection{ID: "connection of " + id, ClientID: "client of " + id, Order: 1},
		}
		do("set", func(ctx context.Context) error { return a.Put(ctx, w) })
		return w
	}
	end := func(w will.Will) {
		t.Helper()
		do("ended", func(ctx context.Context) error { return a.End(ctx, topic, w.Connection, w.ID) })
	}
	want := func(w will.Will) {
		t.Helper()
		do("claimed", func(ctx context.Context) error {
			got, err := b.Claim(ctx, 10, hold)
			for _, other := range got {
				if other.ID == w.ID {
					return nil
				}
				t.Errorf("claimed %s", other.ID)
			}
			return errors.Join(err, errors.New("not claimed"))
		})
		do("deleted", func(ctx context.Context) error { return b.Delete(ctx, topic, w.Connection, w.ID) })
	}
	do("a lease", func(ctx context.Context) error { _, err := a.Lease(ctx, node, time.Hour); return err })
	before, ended, living, fenced := set("before"), set("ended"), set("living"), set("fenced")
	end(before)
	want(before)
	end(ended)
	newer := will.Connection{ID: "newer", ClientID: fenced.Connection.ClientID, Order: 2}
	do("arrived", func(ctx context.Context) error { _, err := b.Arrive(ctx, topic, newer); return err })
	between()
	want(ended)
	end(fenced)
	end(living)
	want(living)
	fenced.ID = "again"
	var err error
	WaitUntil(t, "answered", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), Timeout)
		defer cancel()
		err = a.Put(ctx, fenced)
		return err == nil || errors.Is(err, will.ErrFenced)
	})
	if err == nil {
		t.Error("the arrival is not known")
	}
}
