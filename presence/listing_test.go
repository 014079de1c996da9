package presence_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"bennu.example/presence"
	"bennu.example/pubsub"
)

// TestListing changes a room at random, around the size from which its encoded state is kept. The
// payload of Push is always the encoded list, and earlier payloads stay unchanged.
func TestListing(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	p := presence.New(pubsub.New(nil), presence.Config{})
	defer p.Close(context.Background())
	type pushed struct{ payload, copied []byte }
	var earlier []pushed
	var owners [100]*owner
	for i := range owners {
		owners[i] = new(owner)
	}
	for step := range 1500 {
		o, key := owners[r.IntN(len(owners))], fmt.Sprint("key\"", r.IntN(200))
		switch n := r.IntN(100); {
		case step%500 < 150 && n < 95, n < 45: // at first, nearly all join
			_, _ = p.TrackFor(o, topic, key, device{"step": step}) // fails if it is tracked
		case n < 50:
			_, _ = p.UpdateFor(o, topic, key, device{"step": step}) // fails if it is not tracked
		case n < 60:
			p.UntrackFor(o, topic, key)
		case n < 62:
			p.UntrackAll(o)
		case n < 63:
			runtime.GC()
		case n < 64 && r.IntN(10) == 0:
			for _, o := range owners {
				p.UntrackAll(o)
			}
		}
		if r.IntN(3) > 0 {
			continue
		}
		got := p.Payload(topic)
		if want := stateText(t, p.List(topic)); !bytes.Equal(got, want) {
			t.Fatalf("step %d: payload\n%s\nwant\n%s", step, got, want)
		}
		earlier = append(earlier, pushed{got, bytes.Clone(got)})
		if len(earlier) > 20 {
			earlier = earlier[1:]
		}
		for _, e := range earlier {
			if !bytes.Equal(e.payload, e.copied) {
				t.Fatalf("step %d: an earlier payload has changed", step)
			}
		}
	}
}

// TestListingIsShared checks that pushes between two changes share one payload.
func TestListingIsShared(t *testing.T) {
	t.Parallel()
	p := presence.New(pubsub.New(nil), presence.Config{})
	defer p.Close(context.Background())
	o := new(owner)
	for i := range 100 {
		if _, err := p.TrackFor(o, topic, fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	shared := func() bool {
		for range 10 { // the garbage collector may run between two pushes
			if a, b := p.Payload(topic), p.Payload(topic); &a[0] == &b[0] {
				return true
			}
		}
		return false
	}
	if !shared() {
		t.Error("each push has a payload of its own")
	}
	p.UntrackFor(o, topic, "7")
	if !shared() {
		t.Error("each push has a payload of its own after a leave")
	}
}

// TestListingConcurrently pushes from several goroutines while keys join. A payload has each key
// that was tracked before the push began.
func TestListingConcurrently(t *testing.T) {
	t.Parallel()
	p := presence.New(pubsub.New(nil), presence.Config{})
	defer p.Close(context.Background())
	var joins sync.WaitGroup
	const users, goroutines = 400, 4
	for g := range goroutines {
		joins.Go(func() {
			own := make([]uint32, users)
			for i := g; i < users; i += goroutines {
				if _, err := p.TrackFor(new(owner), topic, userName(i), nil); err != nil {
					t.Error(err)
					return
				}
				if _, err := checksums(p.Payload(topic), own); err != nil {
					t.Error(err)
					return
				}
				if own[i] == 0 {
					t.Errorf("user %d is missing", i)
				}
			}
		})
	}
	joins.Wait()
	all := make([]uint32, users)
	if n, err := checksums(p.Payload(topic), all); n != users || err != nil {
		t.Errorf("%d of %d: %v", n, users, err)
	}
}
