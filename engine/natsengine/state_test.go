package natsengine_test

import (
	"context"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/state"
	"bennu.example/state/statetest"
)

// newObjects returns a store of objects that notices faults soon.
func newObjects(t testing.TB, cfg natsengine.Config) state.Store {
	t.Helper()
	cfg.Timeout, cfg.Ping = brokertest.Timeout, brokertest.Ping
	if cfg.Logger == nil {
		cfg.Logger = new(zerolog.Nop())
	}
	e, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e.State()
}

func TestState(t *testing.T) {
	statetest.Run(t, func(t *testing.T) statetest.Engine {
		e := newServer(t, withJetStream(t))
		first, others := brokertest.NewProxy(t, e.addr()), brokertest.NewProxy(t, e.addr())
		images := &objectImages{Store: newObjects(t, natsengine.Config{URL: first.Addr})}
		images.server = e
		if strings.HasSuffix(t.Name(), "/rollback") {
			images.t = t
		}
		return statetest.Engine{
			Store: images,
			Node:  func(t testing.TB) state.Store { return newObjects(t, natsengine.Config{URL: others.Addr}) },
			Restart: func(t testing.TB) state.Store {
				e.stop()
				e.start(t)
				return newObjects(t, natsengine.Config{URL: e.addr()})
			},
			Rollback: func(t testing.TB, _ string, n int) {
				images.rollback(t, n, func() error {
					_, err := images.Tops(t.Context(), []string{"o"})
					return err
				})
			},
			Freeze: func(testing.TB) func() {
				first.Stall()
				others.Stall()
				return func() { first.Resume(); others.Resume() }
			},
			Durable: true,
		}
	})
}

// objectImages is a store that keeps images of the server's directory, as it was after each write.
type objectImages struct {
	state.Store
	images
}

func (i *objectImages) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	a, err := i.Store.Apply(ctx, object, ops, tx)
	if err == nil {
		i.take()
	}
	return a, err
}
