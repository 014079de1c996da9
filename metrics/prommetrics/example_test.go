package prommetrics_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"bennu.example/metrics/prommetrics"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

func ExampleNew() {
	registry := prometheus.NewRegistry() // promhttp.HandlerFor serves it
	metrics := prommetrics.New(prommetrics.Config{Registerer: registry})

	ps := pubsub.New(nil)
	defer ps.AddHooks(metrics.PubSub())()
	who := presence.New(ps, presence.Config{Hooks: []*presence.Hooks{metrics.Presence()}})
	handler := socket.NewHandler(socket.Config{PubSub: ps, Hooks: []*socket.Hooks{metrics.Socket()}})
	ctx := context.Background()
	defer handler.Shutdown(ctx)
	defer who.Close(ctx)

	if err := ps.Broadcast(ctx, "room:lobby", "news", nil); err != nil {
		fmt.Println(err)
	}
	families, err := registry.Gather()
	if err != nil {
		fmt.Println(err)
	}
	for _, f := range families {
		fmt.Println(f.GetName(), len(f.GetMetric()))
	}
	// Output:
	// bennu_broadcasts_total 1
	// bennu_engine_connected 1
	// bennu_engine_gaps_total 1
}
