package oncetest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/push"
)

// Config is what Run needs.
type Config struct {
	// New returns two stores with the same data, as two nodes have them, which is empty. They may be
	// one store.
	New func(t *testing.T) (a, b push.OnceStore)
	// Virtual runs each test in a bubble of testing/synctest. The store must not do I/O then.
	Virtual bool
	// Unit is the time in which an operation is certainly done. Zero means 100 ms.
	Unit time.Duration
}

// Run tests a store. It calls New for each test.
func Run(t *testing.T, cfg Config) {
	if cfg.Unit == 0 {
		cfg.Unit = 100 * time.Millisecond
	}
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"a key has one holder", (*suite).oneHolder},
		{"both nodes get the reply of the first finish", (*suite).sameReply},
		{"a released key can be claimed", (*suite).released},
		{"a lease ends, unless it is renewed", (*suite).lease},
		{"a holder whose lease ended may still finish", (*suite).late},
		{"the window begins anew when the key is used", (*suite).window},
		{"the oldest of 1,000 replies is dropped", (*suite).bounds},
		{"the keys that are being handled are bounded", (*suite).handled},
		{"the newest of large replies are kept", (*suite).bytes},
		{"many holders at once", (*suite).race},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := func(t *testing.T) {
				a, b := cfg.New(t)
				test.run(&suite{T: t, a: a, b: b, unit: cfg.Unit, ctx: t.Context()})
			}
			if cfg.Virtual {
				synctest.Test(t, run)
			} else {
				run(t)
			}
		})
	}
}

type suite struct {
	*testing.T
	a, b push.OnceStore
	unit time.Duration
	ctx  context.Context
}

// begin expects a result of Begin.
func (s *suite) begin(on push.OnceStore, key, holder string, lease time.Duration, mine bool, reply string) {
	s.Helper()
	gotMine, got, err := on.Begin(s.ctx, key, holder, lease)
	if err != nil || gotMine != mine || string(got) != reply || reply == "" && got != nil {
		s.Fatalf("Begin(%s, %s) returned %v, %q, %v; want %v, %q", key, holder, gotMine, got, err, mine, reply)
	}
}

// finish expects a result of Finish.
func (s *suite) finish(on push.OnceStore, key, holder, reply string, window time.Duration, counts string) {
	s.Helper()
	got, err := on.Finish(s.ctx, key, holder, []byte(reply), window)
	if err != nil || string(got) != counts {
		s.Fatalf("Finish(%s, %s) returned %q, %v; want %q", key, holder, got, err, counts)
	}
}

func (s *suite) release(on push.OnceStore, key, holder string) {
	s.Helper()
	if err := on.Release(s.ctx, key, holder); err != nil {
		s.Fatalf("Release(%s, %s): %v", key, holder, err)
	}
}
