package oncetable_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/oncetable"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestEvicts fills a store. The client with the most loses its oldest replies.
func TestEvicts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := oncetable.New(100, nil)
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
	if n := s.Evicted(); n != 2 { // done("ann.1") needed room, too
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

// TestBoundsBytes has clients with few large replies.
func TestBoundsBytes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := oncetable.New(2000, nil) // 2 MiB
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

// TestForgets checks that nothing is left when all times have passed.
func TestForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := oncetable.New(200, nil)
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
			if msg := s.Check(); msg != "" {
				t.Fatal(msg)
			}
		}
		time.Sleep(time.Hour) // virtual
		if mine, _, err := s.Begin(t.Context(), "last.1", "h", time.Second); !mine || err != nil {
			t.Fatal(mine, err)
		}
		if n := s.IDs(); n != 1 {
			t.Fatalf("%d ids are left", n)
		}
	})
}

// TestRemoved checks that the function of the table is called for each reply that it no longer has.
func TestRemoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var removed []string
		s := oncetable.New(0, func(key string) { removed = append(removed, key) })
		for i := range oncetable.MaxIDs + 2 {
			if _, err := s.Finish(t.Context(), fmt.Sprint("ann.room.", i), "h", []byte("ok"), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if len(removed) != 2 || removed[0] != "ann.room.0" || removed[1] != "ann.room.1" {
			t.Fatalf("removed %q", removed)
		}
		if _, _, err := s.Begin(t.Context(), "bob.room.1", "h", time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour) // virtual
		if _, err := s.Finish(t.Context(), "eve.room.1", "h", []byte("ok"), time.Hour); err != nil {
			t.Fatal(err)
		}
		if len(removed) != oncetable.MaxIDs+2 || s.IDs() != 1 {
			t.Fatalf("%d removed, %d left", len(removed), s.IDs())
		}
	})
}
