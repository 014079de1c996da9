package brokertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/willtimes"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/will"
)

// benchWills is the number of wills of one iteration, each of another client.
const benchWills = 1000

// BenchmarkWills measures how long it takes to set 1,000 wills, including the arrivals of their
// clients, and how long another node takes to broadcast them after the end of their node's lease.
func BenchmarkWills(b *testing.B, newEngine func(b *testing.B) WillEngine) {
	b.Run("set", func(b *testing.B) {
		store := StartWills(b, newEngine(b))
		i := 0
		for b.Loop() {
			i++
			setWills(b, store, fmt.Sprint("node ", i))
		}
		b.ReportMetric(benchWills*float64(b.N)/b.Elapsed().Seconds(), "wills/s")
	})
	b.Run("run", func(b *testing.B) {
		e := newEngine(b)
		store := StartWills(b, e)
		runner := newEngine(b)
		ps := pubsub.New(runner.Adapter())
		pubsubtest.Start(b, ps)
		got := make(chan struct{}, benchWills)
		ps.Subscribe(Topic, willCounter(got))
		nop := zerolog.Nop()
		handler := socket.NewHandler(socket.Config{
			Channels: channel.Routes{"*": willRooms()}, PubSub: ps, Logger: &nop, Wills: quickWills{runner.Wills()},
		})
		b.Cleanup(func() { _ = handler.Shutdown(context.Background()) })
		i := 0
		for b.Loop() {
			i++
			node := fmt.Sprint("node ", i)
			b.StopTimer()
			setWills(b, store, node)
			b.StartTimer()
			if _, err := store.Lease(b.Context(), node, 0); err != nil {
				b.Fatal(err)
			}
			for range benchWills {
				<-got
			}
		}
		b.ReportMetric(benchWills*float64(b.N)/b.Elapsed().Seconds(), "wills/s")
	})
}

// setWills sets wills as the connections of a node do, many at a time.
func setWills(b *testing.B, store will.Store, node string) {
	b.Helper()
	ctx := b.Context()
	if _, err := store.Lease(ctx, node, time.Hour); err != nil {
		b.Fatal(err)
	}
	const atOnce = 50
	var all sync.WaitGroup
	for worker := range atOnce {
		all.Go(func() {
			for i := worker; i < benchWills; i += atOnce {
				c := will.Connection{
					ID: fmt.Sprint(node, " connection ", i), Subject: "user", ClientID: fmt.Sprint(node, " client ", i), Order: 1,
				}
				_, err := store.Arrive(ctx, Topic, c)
				if err == nil {
					err = store.Put(ctx, will.Will{
						ID: fmt.Sprint(node, " will ", i), Topic: Topic, Event: willEvent, Connection: c, Node: node,
						Payload: serializer.Value(willReply{Subject: "user"}),
					})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// quickWills is a store whose node looks for the wills of others all the time.
type quickWills struct{ will.Store }

func (quickWills) WillTimes() willtimes.Times {
	times := willtimes.Default()
	times.Poll = 10 * time.Millisecond
	return times
}

// willCounter counts the wills that are broadcast.
type willCounter chan struct{}

func (c willCounter) Deliver(b *pubsub.Broadcast) error {
	if b.Event == willEvent {
		c <- struct{}{}
	}
	return nil
}
