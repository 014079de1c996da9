package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// startDocuments starts a node whose documents are in a store. It returns the address of its
// socket.
func startDocuments(t *testing.T, store state.Store) (url string) {
	t.Helper()
	objects := state.New(store)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := objects.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	allow := func(context.Context, *channel.Channel, state.Access) error { return nil }
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"doc:*": objects.Documents(state.Config{Allow: allow})}, Logger: new(zerolog.Nop()),
	})
	return "ws://" + serve(t, handler, func() { stop(); running.Wait() }) + "/socket"
}

// CheckMirrors lets clients of two nodes increment a document while the connections of the nodes to
// their store are cut. No increment is lost, and all copies are equal in the end, although changes
// were not fed.
func CheckMirrors(t *testing.T, first, second state.Store, cut func()) {
	t.Helper()
	urls := []string{startDocuments(t, first), startDocuments(t, second)}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	type counter struct{ N int64 }
	var docs []*mirror.Document[counter]
	for i := range 4 {
		c := socket.NewClient(urls[i%2], &socket.ClientConfig{
			ReconnectDelay: func(socket.Retry) time.Duration { return 5 * time.Millisecond },
			RejoinAfter:    func(int) time.Duration { return 5 * time.Millisecond }, Logger: new(zerolog.Nop()),
		})
		c.Connect()
		t.Cleanup(func() {
			end, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := c.Close(end); err != nil {
				t.Error(err)
			}
		})
		var d *mirror.Document[counter]
		WaitUntil(t, "opened", func() bool {
			var err error
			if d, err = mirror.OpenDocument[counter](ctx, c, "doc:counter", nil); err != nil {
				t.Log(err) // the store may not be connected yet
			}
			return err == nil
		})
		docs = append(docs, d)
	}
	var succeeded, uncertain atomic.Int64
	quit := make(chan struct{})
	var writers sync.WaitGroup
	for _, d := range docs {
		writers.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				switch err := d.Update(ctx, func(c *counter) error { c.N++; return nil }); {
				case err == nil:
					succeeded.Add(1)
				case errors.Is(err, history.ErrUnavailable):
					uncertain.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		before := succeeded.Load()
		WaitUntil(t, "in progress", func() bool { return succeeded.Load() > before+30 || t.Failed() })
		cut()
	}
	before := succeeded.Load()
	WaitUntil(t, "in progress", func() bool { return succeeded.Load() > before+30 || t.Failed() })
	close(quit)
	writers.Wait()
	WaitUntil(t, "all copies are equal", func() bool {
		first, rev := docs[0].Value()
		for _, d := range docs {
			if v, r := d.Value(); v != first || r != rev {
				return false
			}
		}
		return first.N >= succeeded.Load()
	})
	v, rev := docs[0].Value()
	if v.N > succeeded.Load()+uncertain.Load() || uint64(v.N) != rev {
		t.Errorf("the value is %d, revision %d, after %d increments and %d that may have failed",
			v.N, rev, succeeded.Load(), uncertain.Load())
	}
	t.Log(fmt.Sprint(v.N, " increments, ", uncertain.Load(), " of unknown outcome"))
}
