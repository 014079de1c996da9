//go:build unix

package redisengine_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/serializer"
)

// body is the payload of a record of about 200 bytes.
var body = serializer.Binary(make([]byte, 180))

func BenchmarkHistory(b *testing.B) {
	setup := func(b *testing.B) *logNode {
		return startLog(b, redisengine.Config{URL: "redis://" + newServer(b).addr})
	}
	oneByOne := func(b *testing.B, f func(i int) error) {
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			begun := time.Now()
			if err := f(i); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begun))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	}
	b.Run("round trip", func(b *testing.B) { // for comparison
		c, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{newServer(b).addr}, ForceSingleClient: true, DisableCache: true,
		})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		oneByOne(b, func(int) error { return c.Do(b.Context(), c.B().Ping().Build()).Error() })
	})
	b.Run("append", func(b *testing.B) {
		n := setup(b)
		oneByOne(b, func(i int) error {
			r := history.Record{Event: "e", Payload: body}
			_, err := n.Append(b.Context(), fmt.Sprint("t", i%1000), r, keep)
			return err
		})
	})
	b.Run("append, 256 in flight", func(b *testing.B) {
		n := setup(b)
		b.SetParallelism(128)
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				r := history.Record{Event: "e", Payload: body}
				if _, err := n.Append(b.Context(), fmt.Sprint("t", i%1000), r, keep); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
	})
	b.Run("tops of 1000", func(b *testing.B) {
		n := setup(b)
		topics := make([]string, 1000)
		for i := range topics {
			topics[i] = fmt.Sprint("t", i)
			n.Watch(topics[i], n.ready)
			n.mustAdd(topics[i], 1)
		}
		_, _ = n.Tops(b.Context(), topics) // renews the metas
		for b.Loop() {
			if _, err := n.Tops(b.Context(), topics); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read 100", func(b *testing.B) {
		n := setup(b)
		var after history.Position
		for range 101 {
			r, err := n.Append(b.Context(), "t", history.Record{Event: "e", Payload: body}, history.Keep{})
			if err != nil {
				b.Fatal(err)
			}
			if after.IsZero() {
				after = r.Position
			}
		}
		for b.Loop() {
			if batch, err := n.Read(b.Context(), "t", after, 1000); err != nil || len(batch.Records) != 100 {
				b.Fatal(len(batch.Records), err)
			}
		}
	})
}
