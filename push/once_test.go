package push_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/push"
	"bennu.example/push/oncetest"
)

func TestOnceMemory(t *testing.T) {
	t.Parallel()
	oncetest.Run(t, oncetest.Config{Virtual: true, New: func(*testing.T) (a, b push.OnceStore) {
		s := push.NewOnceMemory(0)
		return s, s
	}})
}

// TestOnceMemoryEvicts fills a store. The client with the most loses its oldest replies.
func TestOnceMemoryEvicts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := push.NewOnceMemory(100)
	done := func(key string) bool {
		_, reply, err := s.Begin(ctx, key, "other", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if reply == nil {
			_ = s.Release(ctx, key, "other")
		}
		return reply != nil
	}
	fill := func(key string) {
		t.Helper()
		if mine, _, err := s.Begin(ctx, key, "h", time.Hour); !mine || err != nil {
			t.Fatal(key, mine, err)
		}
		if _, err := s.Finish(ctx, key, "h", []byte("ok"), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		fill(fmt.Sprint("ann.", i))
	}
	for i := range 40 {
		fill(fmt.Sprint("bob.", i))
	}
	if !done("ann.0") { // which is the newest now
		t.Fatal("dropped before the store was full")
	}
	fill("bob.40")
	if !done("ann.0") || !done("ann.2") || !done("bob.0") || done("ann.1") {
		t.Fatal("not the oldest of the client with the most")
	}
	if n := s.(interface{ Evicted() uint64 }).Evicted(); n != 2 { // done("ann.1") needed room, too
		t.Fatalf("%d evicted", n)
	}
	for i := range 100 { // all are being handled
		if _, _, err := s.Begin(ctx, fmt.Sprint("eve.", i), "h", time.Hour); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, _, err := s.Begin(ctx, "ann.more", "h", time.Hour); err == nil {
		t.Fatal("more than the store may keep")
	}
}

// TestOnceMemoryBoundsBytes has clients with few large replies.
func TestOnceMemoryBoundsBytes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := push.NewOnceMemory(2000) // 2 MiB
	reply := bytes.Repeat([]byte("x"), 64<<10)
	kept := 0
	for i := range 100 {
		key := fmt.Sprintf("client%d.%d", i%3, i)
		if _, err := s.Finish(ctx, key, "h", reply, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		key := fmt.Sprintf("client%d.%d", i%3, i)
		if _, got, err := s.Begin(ctx, key, "h", time.Hour); err != nil {
			t.Fatal(err)
		} else if got != nil {
			kept++
		}
	}
	if kept < 28 || kept > 32 {
		t.Fatalf("%d replies of 64 KiB are kept", kept)
	}
}

// TestOnceMemoryForgets checks that nothing is left when all times have passed.
func TestOnceMemoryForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := push.NewOnceMemory(200)
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 20_000 {
			key := fmt.Sprintf("c%d.%d", rnd.IntN(10), rnd.IntN(40))
			holder := fmt.Sprint(rnd.IntN(3))
			after := time.Duration(rnd.IntN(1000)) * time.Millisecond
			var err error
			switch rnd.IntN(4) {
			case 0, 1:
				_, _, _ = s.Begin(t.Context(), key, holder, after) // may be full
			case 2:
				_, _ = s.Finish(t.Context(), key, holder, make([]byte, 1+rnd.IntN(9000)), after)
			case 3:
				err = s.Release(t.Context(), key, holder)
			}
			if err != nil {
				t.Fatal(err)
			}
			if rnd.IntN(20) == 0 {
				time.Sleep(50 * time.Millisecond) // virtual
			}
			if msg := push.CheckOnceMemory(s); msg != "" {
				t.Fatal(msg)
			}
		}
		time.Sleep(time.Hour) // virtual
		if mine, _, err := s.Begin(t.Context(), "last.1", "h", time.Second); !mine || err != nil {
			t.Fatal(mine, err)
		}
		if n := push.IDsOfOnceMemory(s); n != 1 {
			t.Fatalf("%d ids are left", n)
		}
	})
}
