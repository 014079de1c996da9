package natsengine_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/push"
	"bennu.example/push/oncetest"
)

func startOnce(t *testing.T, cfg natsengine.Config) (store push.OnceStore, stop func()) {
	t.Helper()
	return brokertest.StartOnce(t, onceEngine(t, cfg))
}

func onceEngine(t *testing.T, cfg natsengine.Config) *natsengine.Engine {
	t.Helper()
	cfg.Timeout, cfg.Ping, cfg.Logger = brokertest.Timeout, brokertest.Ping, new(zerolog.Nop())
	e, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The user has the documented permissions.
func TestOnce(t *testing.T) {
	t.Parallel()
	publish, subscribe := documentedPermissions(t, "Last wills")
	more, _ := documentedPermissions(t, "Once")
	e := newServer(t, withJetStream(t), func(o *server.Options) {
		o.Users = []*server.User{
			user("node", append(publish, more...), append([]string{"bennu.>"}, subscribe...)),
			user("test", []string{">"}, []string{">"}),
		}
	})
	oncetest.Run(t, oncetest.Config{New: func(t *testing.T) (a, b push.OnceStore) {
		nc, err := nats.Connect(e.addr(), nats.UserInfo("test", "secret"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		if err := js.DeleteStream("bennu-once"); err != nil && !errors.Is(err, nats.ErrStreamNotFound) {
			t.Fatal(err)
		}
		cfg := natsengine.Config{URL: e.addr(), Options: []nats.Option{nats.UserInfo("node", "secret")}}
		a, _ = startOnce(t, cfg)
		b, _ = startOnce(t, cfg)
		return a, b
	}})
}

func TestOnceOfNodeThatEnds(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	a, stop := startOnce(t, natsengine.Config{URL: e.addr()})
	b, _ := startOnce(t, natsengine.Config{URL: e.addr()})
	brokertest.CheckOnceDeath(t, a, stop, b)
}

func TestOnceWithoutServer(t *testing.T) {
	t.Parallel()
	t.Run("frozen", func(t *testing.T) {
		t.Parallel()
		proxy := brokertest.NewProxy(t, newServer(t, withJetStream(t)).addr())
		store, _ := startOnce(t, natsengine.Config{URL: proxy.Addr})
		brokertest.CheckOnceOutage(t, store, proxy.Stall, proxy.Resume)
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		e := newServer(t, withJetStream(t))
		store, _ := startOnce(t, natsengine.Config{URL: e.addr()})
		brokertest.CheckOnceOutage(t, store, e.stop, func() { e.start(t) })
	})
}

// TestOnceExpires checks that the stream has no message after the last reply has expired.
func TestOnceExpires(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	store, _ := startOnce(t, natsengine.Config{URL: e.addr()})
	if mine, _, err := store.Begin(t.Context(), "ann.room.1", "h", time.Second); !mine || err != nil {
		t.Fatal(mine, err)
	}
	if _, err := store.Finish(t.Context(), "ann.room.1", "h", []byte("done"), time.Second); err != nil {
		t.Fatal(err)
	}
	js := e.jetStream(t)
	brokertest.WaitUntil(t, "expired", func() bool {
		info, err := js.StreamInfo("bennu-once")
		return err == nil && info.State.Msgs == 1 // that of the clock
	})
	if mine, _, err := store.Begin(t.Context(), "ann.room.1", "other", time.Second); !mine || err != nil {
		t.Error(mine, err)
	}
}

// Many clients push on two nodes, and a third node starts late. The indexes stay within their
// bound, and pushes that they have forgotten are still handled once.
func TestOnceIndexIsBounded(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	const room, clients = 40_000, 300 // about 600 bytes for each client
	var engines []*natsengine.Engine
	start := func() push.OnceStore {
		engine := onceEngine(t, natsengine.Config{URL: e.addr()})
		engine.KeepOnceIndex(room)
		engines = append(engines, engine)
		store, _ := brokertest.StartOnce(t, engine)
		return store
	}
	stores := []push.OnceStore{start(), start()}
	handle := func(n int, key string) (reply string) {
		t.Helper()
		mine, known, err := stores[n].Begin(t.Context(), key, "h", time.Minute)
		if err == nil && mine {
			known, err = stores[n].Finish(t.Context(), key, "h", []byte(fmt.Sprint("reply ", n)), time.Hour)
		}
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		return string(known)
	}
	bounded := func() {
		t.Helper()
		for i, engine := range engines {
			brokertest.WaitUntil(t, "the index has the newest ids", func() bool {
				ids, counted, size := engine.OnceIndex()
				if counted != size || size > room {
					t.Errorf("node %d: the index has %d bytes, counted %d", i, size, counted)
				}
				return ids > clients/10 && ids < clients
			})
		}
	}
	for i := range clients {
		handle(i%2, fmt.Sprintf("client-%03d.room.1", i))
	}
	bounded()
	stores = append(stores, start())
	bounded()
	for i := range clients {
		want := fmt.Sprint("reply ", i%2)
		if got := handle(2, fmt.Sprintf("client-%03d.room.1", i)); got != want {
			t.Errorf("client %d: %s, want %s", i, got, want)
		}
	}
	bounded()
}
