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
	// It takes turns with round trips, so that other load on the machine affects both.
	b.Run("append", func(b *testing.B) {
		server := newServer(b)
		n := startLog(b, redisengine.Config{URL: "redis://" + server.addr})
		c, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{server.addr}, ForceSingleClient: true, DisableCache: true,
		})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		var trips, appends []time.Duration
		for i := 0; b.Loop(); i++ {
			begun := time.Now()
			if err := c.Do(b.Context(), c.B().Ping().Build()).Error(); err != nil {
				b.Fatal(err)
			}
			between := time.Now()
			r := history.Record{Event: "e", Payload: body}
			if _, err := n.Append(b.Context(), fmt.Sprint("t", i%1000), r, keep); err != nil {
				b.Fatal(err)
			}
			trips, appends = append(trips, between.Sub(begun)), append(appends, time.Since(between))
		}
		for name, took := range map[string][]time.Duration{"trip-p50-µs": trips, "append-p50-µs": appends} {
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), name)
		}
		b.ReportMetric(0, "ns/op") // of both
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
