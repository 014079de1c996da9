package natsengine_test

import (
	"errors"
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
	cfg.Timeout, cfg.Ping, cfg.Logger = brokertest.Timeout, brokertest.Ping, new(zerolog.Nop())
	e, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return brokertest.StartOnce(t, e)
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
