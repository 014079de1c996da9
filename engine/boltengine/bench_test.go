package boltengine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/internal/statebench"
	"bennu.example/serializer"
	"bennu.example/state"
)

// benchTopics is the number of topics that the benchmarks use.
const benchTopics = 1000

// benchPayload has 200 bytes.
var benchPayload = serializer.Value(map[string]string{"body": strings.Repeat("x", 189)})

// BenchmarkAppend appends with an fsync for every commit. It reports the records per second, the
// longest wait but one of a hundred, and the bytes of the file for each record that it has.
func BenchmarkAppend(b *testing.B) {
	for _, inFlight := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "history.db")
			log := running(b, boltengine.Config{Path: path})
			k := history.Keep{Count: 256, Bytes: 1 << 20, Age: time.Hour}
			var next atomic.Int64
			waits := make([]time.Duration, b.N)
			b.ResetTimer()
			var wg sync.WaitGroup
			for range inFlight {
				wg.Go(func() {
					for {
						i := int(next.Add(1)) - 1
						if i >= b.N {
							return
						}
						begun := time.Now()
						topic := fmt.Sprint("room:", i%benchTopics)
						r := history.Record{Event: "new_msg", Payload: benchPayload}
						if _, err := log.Append(b.Context(), topic, r, k); err != nil {
							b.Error(err)
						}
						waits[i] = time.Since(begun)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(percentile(waits, 99).Microseconds()), "p99-µs")
			if info, err := os.Stat(path); err == nil {
				b.ReportMetric(float64(info.Size())/float64(min(b.N, benchTopics*k.Count)), "bytes/record")
			}
		})
	}
}

// BenchmarkRead reads the newest 100 records of a topic.
func BenchmarkRead(b *testing.B) {
	log := running(b, boltengine.Config{Path: filepath.Join(b.TempDir(), "history.db"), NoSync: true})
	k := history.Keep{Count: 256, Bytes: 1 << 20, Age: time.Hour}
	var after history.Position
	for i := range 200 {
		r, err := log.Append(b.Context(), "room:1", history.Record{Event: "new_msg", Payload: benchPayload}, k)
		if err != nil {
			b.Fatal(err)
		}
		if i == 99 {
			after = r.Position
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if batch, err := log.Read(b.Context(), "room:1", after, 1000); err != nil || len(batch.Records) != 100 {
			b.Fatal(len(batch.Records), err)
		}
	}
}

// BenchmarkTops asks for the tops of 1,000 topics.
func BenchmarkTops(b *testing.B) {
	log := running(b, boltengine.Config{Path: filepath.Join(b.TempDir(), "history.db"), NoSync: true})
	k := history.Keep{Count: 256, Bytes: 1 << 20, Age: time.Hour}
	topics := make([]string, 1000)
	for i := range topics {
		topics[i] = fmt.Sprint("room:", i)
		if _, err := log.Append(b.Context(), topics[i], history.Record{Event: "e"}, k); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := log.Tops(b.Context(), topics); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApply writes items of objects with an fsync for every commit. It reports the writes per
// second, the longest wait but one of a hundred, and the bytes of the file for each item.
func BenchmarkApply(b *testing.B) {
	value, err := benchPayload.JSON()
	if err != nil {
		b.Fatal(err)
	}
	for _, inFlight := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "history.db")
			s := runState(b, open(b, boltengine.Config{Path: path}), state.Inbox{})
			var next atomic.Int64
			waits := make([]time.Duration, b.N)
			b.ResetTimer()
			var wg sync.WaitGroup
			for range inFlight {
				wg.Go(func() {
					for {
						i := int(next.Add(1)) - 1
						if i >= b.N {
							return
						}
						begun := time.Now()
						ops := []state.Op{{Key: fmt.Sprint("key", i/100%100), Value: value}}
						if _, err := s.Apply(b.Context(), fmt.Sprint("board:", i%100), ops, state.Tx{}); err != nil {
							b.Error(err)
						}
						waits[i] = time.Since(begun)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			b.ReportMetric(float64(percentile(waits, 99).Microseconds()), "p99-µs")
			if info, err := os.Stat(path); err == nil {
				b.ReportMetric(float64(info.Size())/float64(min(b.N, 100*100)), "bytes/item")
			}
		})
	}
}

// BenchmarkStateMany has many objects, and many items that expire.
func BenchmarkStateMany(b *testing.B) {
	newStore := func(b *testing.B) state.Store { return runState(b, open(b, config(b)), state.Inbox{}) }
	statebench.Objects(b, newStore)
	statebench.Expiry(b, newStore)
}
