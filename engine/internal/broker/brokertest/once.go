package brokertest

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// OnceEngine is an engine with a store for Once.
type OnceEngine interface {
	Adapter() pubsub.Adapter
	Once() push.OnceStore
}

// StartOnce returns the store of a node that runs until stop is called, or until the test ends.
func StartOnce(t testing.TB, e OnceEngine) (store push.OnceStore, stop func()) {
	t.Helper()
	store = e.Once()
	ps := pubsub.New(e.Adapter())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := ps.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	WaitUntil(t, "connected to the store of Once", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), Timeout)
		defer cancel()
		return store.Release(ctx, "nobody.topic.push", "nobody") == nil
	})
	return store, stop
}

// CheckOnceDeath checks that the lease of a node that has ended ends, and not before.
func CheckOnceDeath(t *testing.T, a push.OnceStore, stopA func(), b push.OnceStore) {
	t.Helper()
	const key, lease = "ann.room.death", 2 * time.Second
	begun := time.Now()
	if mine, _, err := a.Begin(t.Context(), key, "first", lease); !mine || err != nil {
		t.Fatal(mine, err)
	}
	stopA()
	if _, err := a.Finish(t.Context(), key, "first", []byte("done"), time.Hour); err == nil {
		t.Error("a node that has ended records a reply")
	}
	WaitUntil(t, "the lease has ended", func() bool {
		mine, reply, err := b.Begin(t.Context(), key, "second", time.Hour)
		if err != nil || reply != nil {
			t.Fatalf("%q, %v", reply, err)
		}
		return mine
	})
	if kept := time.Since(begun); kept < lease-100*time.Millisecond {
		t.Errorf("the lease ended after %v", kept)
	}
}

// CheckOnceOutage checks that a push is not handled while the store does not answer, and that
// others are handled afterwards.
func CheckOnceOutage(t *testing.T, store push.OnceStore, fail, repair func()) {
	t.Helper()
	type none struct{}
	var runs atomic.Int64
	room := channel.Define(func(*none, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
		channel.On("msg", func(*none, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.OK(map[string]int64{"run": runs.Add(1)}), nil
		}), channel.Once[none](push.OnceConfig{Store: store}))
	silent := zerolog.Nop()
	handler := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": room}, Logger: &silent})
	server := httptest.NewServer(handler)
	defer server.Close()
	defer func() { _ = handler.Shutdown(context.Background()) }()
	client := socket.NewClient(strings.Replace(server.URL, "http", "ws", 1), &socket.ClientConfig{
		Logger: &silent, ClientID: "client-of-the-test",
	})
	defer func() { _ = client.Close(context.Background()) }()
	client.Connect()
	c := client.Channel("room:1", nil)
	c.Join()
	send := func(id string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		_, err := c.Push("msg", map[string]string{"$id": id}).Wait(ctx)
		return err
	}
	if err := errors.Join(send("before"), send("before")); err != nil || runs.Load() != 1 {
		t.Fatalf("%d runs, %v", runs.Load(), err)
	}
	fail()
	err := send("during")
	if refused, ok := errors.AsType[*push.Error](err); !ok || refused.Reason() != "unavailable" {
		t.Errorf("the store is away: %v", err)
	}
	if n := runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
	repair()
	// The store may have got the claim of the push, which then has a lease of 30 s. Others need not
	// wait.
	WaitUntil(t, "the store is back", func() bool { return send("after") == nil })
	if err := send("after"); err != nil || runs.Load() != 2 {
		t.Errorf("%d runs, %v", runs.Load(), err)
	}
}
