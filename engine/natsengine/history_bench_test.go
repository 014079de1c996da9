package natsengine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/natsengine"
	"bennu.example/history"
	"bennu.example/internal/cputime"
	"bennu.example/serializer"
)

// runLog runs a log until the test ends, and waits until it is connected.
func runLog(t testing.TB, l history.Log, in history.Inbox) history.Log {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, in) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(30 * time.Second); !l.Health().Connected; time.Sleep(time.Millisecond) { // polling
		if time.Now().After(end) {
			t.Fatal(l.Health().Err)
		}
	}
	return l
}

// benchRecord is a record of about 200 bytes.
func benchRecord() history.Record {
	return history.Record{Event: "new_msg", Payload: serializer.Value(map[string]string{"body": string(make160())})}
}

func make160() []byte { return slices.Repeat([]byte("x"), 160) }

func BenchmarkHistory(b *testing.B) {
	e := newServer(b, withJetStream(b))
	l := runLog(b, newLog(b, natsengine.Config{URL: e.addr()}), history.Inbox{})
	nc := e.connect(b)
	defer nc.Close()
	echo, err := nc.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = echo.Unsubscribe() }()
	topics := make([]string, 1000)
	for i := range topics {
		topics[i] = fmt.Sprint("room:", i)
	}
	var first history.Position
	each := make(chan string)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for topic := range each {
				if _, err := l.Append(b.Context(), topic, benchRecord(), history.Keep{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, topic := range topics {
		each <- topic
	}
	close(each)
	wg.Wait()
	for i := range 101 {
		r, err := l.Append(b.Context(), "replay", benchRecord(), history.Keep{})
		if err != nil {
			b.Fatal(err)
		}
		if i == 0 {
			first = r.Position
		}
	}
	// A round trip of the client's library to a client that answers.
	b.Run("echo", func(b *testing.B) {
		median(b, func() error { _, err := nc.Request("echo", make160(), time.Second); return err })
	})
	b.Run("append", func(b *testing.B) {
		i := 0
		median(b, func() error {
			i++
			_, err := l.Append(b.Context(), topics[i%len(topics)], benchRecord(), history.Keep{})
			return err
		})
	})
	b.Run("append in parallel", func(b *testing.B) {
		b.SetParallelism(128)
		used := cputime.Used()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, err := l.Append(b.Context(), topics[i%len(topics)], benchRecord(), history.Keep{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64((cputime.Used()-used).Microseconds())/float64(b.N), "cpu-µs/op")
	})
	// Most of it is the work of the server for 1,000 answers: the request alone took 9.1 of 11.9 ms.
	// Requests for 125 to 500 topics at the same time take as much processor time, 7 to 12 ms on two
	// cores, and are not faster.
	b.Run("tops of 1000", func(b *testing.B) {
		median(b, func() error { _, err := l.Tops(b.Context(), topics); return err })
	})
	b.Run("replay of 100", func(b *testing.B) {
		median(b, func() error {
			batch, err := l.Read(b.Context(), "replay", first, 1000)
			if len(batch.Records) != 100 {
				b.Errorf("%d records", len(batch.Records))
			}
			return err
		})
	})
}

// median reports the median of the times that f takes, and the processor time, which other load on
// the machine affects less. The server is in the same process.
func median(b *testing.B, f func() error) {
	times := make([]time.Duration, 0, b.N)
	used := cputime.Used()
	for b.Loop() {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	b.ReportMetric(float64((cputime.Used()-used).Microseconds())/float64(len(times)), "cpu-µs/op")
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
}
