package natsengine_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/internal/statebench"
	"bennu.example/state"
)

// BenchmarkState writes items of 200 bytes, to maps of 100 items, and then reads pages of them. It
// reports the operations per second, and the bytes of the stream for each item.
func BenchmarkState(b *testing.B) {
	const items = 100 * 100
	value := `"` + strings.Repeat("x", 198) + `"`
	for _, inFlight := range []int{2, 16, 256} {
		e := newServer(b, withJetStream(b))
		n := startObjects(b, natsengine.Config{URL: e.addr()})
		run := func(name string, op func(i int) error) {
			b.Run(fmt.Sprint(name, "/", inFlight), func(b *testing.B) {
				var next atomic.Int64
				b.SetParallelism(inFlight / 2) // on two processors
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := op(int(next.Add(1)) - 1); err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), name+"/s")
				if info, err := e.jetStream(b).StreamInfo("bennu-objects"); err != nil {
					b.Error(err)
				} else if b.N >= items {
					b.ReportMetric(float64(info.State.Bytes)/items, "bytes/item")
				}
			})
		}
		run("writes", func(i int) error {
			ops := []state.Op{brokertest.Put(fmt.Sprint("key", i/100%100), value)}
			_, err := n.Apply(b.Context(), fmt.Sprint("board:", i%100), ops, state.Tx{})
			return err
		})
		run("reads", func(i int) error {
			_, err := n.Read(b.Context(), fmt.Sprint("board:", i%100), state.Range{}, "", 100)
			return err
		})
	}
}

// BenchmarkStateMany has many objects, and many items that expire.
func BenchmarkStateMany(b *testing.B) {
	newStore := func(b *testing.B) state.Store {
		return startObjects(b, natsengine.Config{URL: newServer(b, withJetStream(b)).addr()})
	}
	statebench.Objects(b, newStore)
	statebench.Expiry(b, newStore)
}
