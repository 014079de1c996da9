package boltengine_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/offline"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// TestKeepOverReopen has a client that continues at the position which the file has.
func TestKeepOverReopen(t *testing.T) {
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": {}})
	silent := zerolog.Nop()
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": channel.Define(
			func(*struct{}, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil })},
		PubSub: ps, Logger: &silent,
	})
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		if err := handler.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	say := func(from, to int) {
		for n := from; n <= to; n++ {
			if err := ps.Broadcast(t.Context(), "room:1", "new_msg", map[string]int{"n": n}); err != nil {
				t.Fatal(err)
			}
		}
	}

	path := filepath.Join(t.TempDir(), "client.db")
	var mu sync.Mutex
	var got []int
	// process is a process of the client, which ends when it has received n messages.
	process := func(n int, while func()) {
		store, err := boltengine.OpenClient(path)
		if err != nil {
			t.Fatal(err)
		}
		c := socket.NewClient(server.URL, &socket.ClientConfig{
			Logger: &silent, Offline: &offline.Config{Store: store, Identity: "ann"},
		})
		c.Connect()
		room := c.Channel("room:1", nil)
		room.Resume(channel.ResumeConfig{OnReset: func(_ serializer.Payload, why string) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, -1)
		}})
		done := make(chan struct{})
		room.On("new_msg", func(p serializer.Payload) {
			var m struct{ N int }
			if err := p.Decode(&m); err != nil {
				t.Error(err)
			}
			mu.Lock()
			got = append(got, m.N)
			mu.Unlock()
			if m.N == n {
				close(done)
			}
		})
		room.Keep(offline.Keep)
		if _, err := room.Join().Wait(t.Context()); err != nil {
			t.Error(err)
		}
		while()
		<-done
		if err := errors.Join(c.Close(context.Background()), store.Close()); err != nil {
			t.Error(err)
		}
	}
	process(3, func() { say(1, 3) })
	say(4, 6)
	process(6, func() {})
	process(8, func() { say(7, 8) })
	if want := []int{-1, 1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(got, want) {
		t.Error(fmt.Sprint("received ", got, ", want ", want))
	}
}
