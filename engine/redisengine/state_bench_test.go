//go:build unix

package redisengine_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"bennu.example/engine/redisengine"
	"bennu.example/internal/statebench"
	"bennu.example/state"
)

// BenchmarkState writes items of 200 bytes, to maps of 100 items. It reports the writes per second
// and the memory of Redis for each item.
func BenchmarkState(b *testing.B) {
	value := []byte(`"` + strings.Repeat("x", 198) + `"`)
	for _, inFlight := range []int{2, 16, 256} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			e := newServer(b)
			n := startStore(b, redisengine.Config{URL: "redis://" + e.addr})
			memory := func() (used int) {
				for line := range strings.Lines(e.do(b, "INFO", "memory")) {
					if text, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
						used, _ = strconv.Atoi(text)
					}
				}
				return used
			}
			before := memory()
			var next atomic.Int64
			b.SetParallelism(inFlight / 2) // on two processors
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := int(next.Add(1)) - 1
					ops := []state.Op{{Key: fmt.Sprint("key", i/100%100), Value: value}}
					if _, err := n.Apply(b.Context(), fmt.Sprint("board:", i%100), ops, state.Tx{}); err != nil {
						b.Error(err)
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			b.ReportMetric(float64(memory()-before)/float64(min(b.N, 100*100)), "bytes/item")
		})
	}
}

// BenchmarkStateMany has many objects, and many items that expire.
func BenchmarkStateMany(b *testing.B) {
	newStore := func(b *testing.B) state.Store {
		return startStore(b, redisengine.Config{URL: "redis://" + newServer(b).addr})
	}
	statebench.Objects(b, newStore)
	statebench.Expiry(b, newStore)
}
