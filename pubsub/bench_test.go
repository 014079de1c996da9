package pubsub_test

import (
	"fmt"
	"testing"

	"bennu.example/history"
	"bennu.example/internal/cputime"
	"bennu.example/internal/follow"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// live is a subscriber like a channel that is live: it takes the frame of each broadcast.
type live struct {
	r          follow.Reader[*pubsub.Broadcast]
	positioned bool
	bytes      int
}

func (l *live) Deliver(b *pubsub.Broadcast) error {
	var f *serializer.Frame
	var err error
	if l.positioned && b.Record() != nil {
		if !l.r.Live() {
			return nil
		}
		f, err = b.PositionedFrame(v2)
	} else {
		f, err = b.Frame(v2)
	}
	l.bytes += len(f.Data)
	return err
}

var v2 = serializer.V2()

// BenchmarkRecordedBroadcast compares plain broadcasts with recorded ones. The processor time does
// not grow on a busy machine.
func BenchmarkRecordedBroadcast(b *testing.B) {
	payload := jsonOf(fmt.Sprintf(`{"body":"%0185d"}`, 7))
	for _, n := range []int{0, 1, 100} {
		for _, kind := range []string{"plain", "recorded", "positioned"} {
			b.Run(fmt.Sprintf("%s/%d subscribers", kind, n), func(b *testing.B) {
				ps := pubsub.New(nil)
				if kind != "plain" {
					ps, _ = newRecorded()
				}
				for range n {
					l := &live{positioned: kind == "positioned"}
					if kind != "plain" {
						if _, err := ps.Recorded().Open(b.Context(), &l.r, "room:1", follow.Start{}); err != nil {
							b.Fatal(err)
						}
						defer l.r.Close()
						l.r.Flip()
					}
					ps.Subscribe("room:1", l)
				}
				b.ReportAllocs()
				used := cputime.Used()
				for b.Loop() {
					if err := ps.Broadcast(b.Context(), "room:1", "new_msg", payload); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cputime.Used()-used)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// filled returns a PubSub with 200 records on room:1, and the position of the one before the last
// n.
func filled(tb testing.TB, n int) (*pubsub.PubSub, history.Position) {
	tb.Helper()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": {}})
	ps.Subscribe("room:1", new(live))
	var at history.Position
	for i := range 200 {
		p, err := ps.Append(tb.Context(), "room:1", "new_msg", map[string]int{"n": i})
		if err != nil {
			tb.Fatal(err)
		}
		if i == 199-n {
			at = p
		}
	}
	return ps, at
}

// BenchmarkRejoin is what a reader costs that returns and missed a number of records, of which the
// frames are encoded already.
func BenchmarkRejoin(b *testing.B) {
	for _, n := range []int{0, 50, 100} {
		b.Run(fmt.Sprint(n, " missed"), func(b *testing.B) {
			ps, since := filled(b, n)
			rejoin := func() {
				var r follow.Reader[*pubsub.Broadcast]
				m, err := ps.Recorded().Open(b.Context(), &r, "room:1", follow.Start{Since: since})
				if err != nil || m.Why != "" {
					b.Fatal(m, err)
				}
				for got := 0; ; {
					items, err := r.Next(b.Context(), 64, nil)
					for _, it := range items {
						if _, err := it.Item.PositionedFrame(v2); err != nil {
							b.Fatal(err)
						}
						r.Advance(it)
					}
					if got += len(items); err != nil || len(items) == 0 && got != n {
						b.Fatal(got, err)
					}
					if r.Flip() == follow.FlipLive {
						break
					}
				}
				r.Close()
			}
			rejoin()
			b.ReportAllocs()
			used := cputime.Used()
			for b.Loop() {
				rejoin()
			}
			b.ReportMetric(float64(cputime.Used()-used)/float64(b.N), "cpu-ns/op")
		})
	}
}

// TestRecordedAllocations checks what recording adds to a broadcast: the record, its slot in the
// window, and nothing for each subscriber.
func TestRecordedAllocations(t *testing.T) {
	payload := jsonOf(`{"n":1}`)
	allocations := func(ps *pubsub.PubSub, subscribers int) float64 {
		for range subscribers {
			ps.Subscribe("room:1", new(live))
		}
		return testing.AllocsPerRun(500, func() {
			if err := ps.Broadcast(t.Context(), "room:1", "e", payload); err != nil {
				t.Fatal(err)
			}
		})
	}
	recorded, _ := newRecorded()
	plain := allocations(pubsub.New(nil), 1)
	if n := allocations(recorded, 1) - plain; n > 2 {
		t.Errorf("recording adds %v allocations to a broadcast, more than 2", n)
	}
	many, _ := newRecorded()
	if n := allocations(many, 100) - plain; n > 2 {
		t.Errorf("recording adds %v allocations to a broadcast to 100 subscribers, more than 2", n)
	}
}
