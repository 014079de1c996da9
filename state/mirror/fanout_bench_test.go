package mirror_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"bennu.example/serializer"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// BenchmarkFanOut sends a change to 1,000 clients, each of which decodes the value in a callback or
// a loop: as a broadcast to channels, and as the change of an object to mirrors.
func BenchmarkFanOut(b *testing.B) {
	const clients = 1000
	text := fmt.Sprintf(`{"N":1,"Text":"%0100d"}`, 1)
	type value struct {
		N    int
		Text string
	}
	b.Run("broadcast", func(b *testing.B) {
		r := newRig(b, state.Config{})
		var received sync.WaitGroup
		for range clients {
			c := r.client().Channel("room:1", nil)
			c.On("put", func(p serializer.Payload) {
				var e struct {
					Rev   uint64
					Value value
				}
				if err := p.Decode(&e); err != nil || e.Value.N != 1 {
					b.Error(err)
				}
				received.Done()
			})
			if _, err := c.Join().Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		var payload serializer.Payload
		if err := payload.UnmarshalJSON([]byte(`{"$pos":"k2m9-8-01qa","rev":8,"value":` + text + `}`)); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			received.Add(clients)
			if err := r.ps.Broadcast(b.Context(), "room:1", "put", payload); err != nil {
				b.Fatal(err)
			}
			received.Wait()
		}
	})
	b.Run("mirrors", func(b *testing.B) {
		r := newRig(b, state.Config{})
		var received, loops sync.WaitGroup
		ctx, cancel := context.WithCancel(b.Context())
		defer loops.Wait()
		defer cancel()
		received.Add(clients) // of Synced
		for range clients {
			d, err := mirror.OpenDocument[value](ctx, r.client(), "doc:1", nil)
			if err != nil {
				b.Fatal(err)
			}
			loops.Go(func() {
				for c, err := range d.Changes(ctx) {
					if err != nil || c.Kind == mirror.Put && c.Value.N != 1 {
						b.Error(err)
					}
					received.Done()
				}
			})
		}
		received.Wait()
		for b.Loop() {
			received.Add(clients)
			r.put("doc:1", state.Op{Value: []byte(text)})
			received.Wait()
		}
	})
}
