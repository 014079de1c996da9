// Package statebench has benchmarks of large numbers of objects and items, for every store.
package statebench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/state"
)

const (
	many     = 100_000
	inFlight = 256
)

// Objects creates 100,000 objects in a store that runs. Each iteration takes a new store.
func Objects(b *testing.B, newStore func(b *testing.B) state.Store) {
	b.Run("objects", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			s := newStore(b)
			b.StartTimer()
			parallel(b, many, func(i int) error {
				_, err := s.Apply(b.Context(), fmt.Sprint("o", i), []state.Op{{Key: "k", Value: []byte(`1`)}}, state.Tx{})
				return err
			})
		}
		b.ReportMetric(float64(b.N)*many/b.Elapsed().Seconds(), "objects/s")
	})
}

// Expiry lets 100,000 items expire in a store that leaves this to Expire. Each iteration takes a
// new store.
func Expiry(b *testing.B, newStore func(b *testing.B) state.Store) {
	b.Run("expiry", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			s := newStore(b)
			ttl := time.Second
			const batch = 100
			parallel(b, many/batch, func(i int) error {
				ops := make([]state.Op, batch)
				for j := range ops {
					ops[j] = state.Op{Key: fmt.Sprint("k", i*batch+j), Value: []byte(`1`), TTL: &ttl}
				}
				_, err := s.Apply(b.Context(), fmt.Sprint("o", i%10), ops, state.Tx{})
				return err
			})
			time.Sleep(ttl + 10*time.Millisecond) // until all are due, by the clock of the store
			b.StartTimer()
			for left := many; left > 0; {
				n, err := s.Expire(b.Context(), 1000)
				if err != nil || n == 0 || n > left {
					b.Fatalf("%d have expired, of %d that are left: %v", n, left, err)
				}
				left -= n
			}
		}
		b.ReportMetric(float64(b.N)*many/b.Elapsed().Seconds(), "items/s")
	})
}

// parallel calls f for each number below n, by several goroutines.
func parallel(b *testing.B, n int, f func(i int) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
