package brokertest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// Benchmark measures two nodes: how many broadcasts one can publish while the other receives all of
// them, and how long one broadcast takes.
func Benchmark(b *testing.B, setup func(t testing.TB) Engine) {
	for _, size := range []int{128, 4096} {
		b.Run(fmt.Sprintf("stream/%d", size), func(b *testing.B) { benchStream(b, setup(b), size) })
	}
	b.Run("one by one/128", func(b *testing.B) { benchOne(b, setup(b), 128) })
}

// pair runs two adapters. It returns the first one, the number of messages that the second one has
// received, and a channel that is signaled for each of them.
func pair(b *testing.B, e Engine) (from pubsub.Adapter, received *atomic.Int64, arrived chan struct{}) {
	received, arrived = new(atomic.Int64), make(chan struct{}, 1)
	var probed atomic.Bool
	from, to := e.New(b, e.Addr, nil), e.New(b, e.Addr, nil)
	ctx, cancel := context.WithCancel(context.Background())
	inbox := pubsub.Inbox{
		Deliver: func(m *pubsub.Broadcast) {
			if m.Event != message {
				probed.Store(true)
				return
			}
			received.Add(1)
			select {
			case arrived <- struct{}{}:
			default:
			}
		},
		Gap: func(err error) { b.Error(err) },
	}
	var running sync.WaitGroup
	for _, a := range []pubsub.Adapter{from, to} {
		running.Go(func() { _ = a.Run(ctx, inbox) })
	}
	b.Cleanup(func() {
		cancel()
		running.Wait()
	})
	to.Subscribe(Topic)
	for !probed.Load() || from.Health().Queued > 0 {
		if !probed.Load() {
			_ = from.Publish(ctx, "", &pubsub.Broadcast{Topic: Topic, Event: "probe"})
		}
		runtime.Gosched()
	}
	return from, received, arrived
}

const message = "new_msg"

func benchStream(b *testing.B, e Engine, size int) {
	from, received, arrived := pair(b, e)
	m := &pubsub.Broadcast{Topic: Topic, Event: message, Payload: serializer.Binary(make([]byte, size))}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for n := int64(0); b.Loop(); n++ {
		for n-received.Load() > int64(Queue/2/(size+256)) { // no more than fit into the queues at both ends
			<-arrived
		}
		if err := from.Publish(b.Context(), "", m); err != nil {
			b.Fatal(err)
		}
	}
	for received.Load() < int64(b.N) {
		<-arrived
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func benchOne(b *testing.B, e Engine, size int) {
	from, received, arrived := pair(b, e)
	m := &pubsub.Broadcast{Topic: Topic, Event: message, Payload: serializer.Binary(make([]byte, size))}
	next := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		if err := from.Publish(b.Context(), "", m); err != nil {
			b.Fatal(err)
		}
		for next++; received.Load() < next; {
			<-arrived
		}
	}
}
