package oteltrace_test

import (
	"context"
	"fmt"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"bennu.example/pubsub"
	"bennu.example/socket"
	"bennu.example/trace/oteltrace"
)

// This exporter keeps the spans in memory. A real program has one that sends them to a collector.
func ExampleNew() {
	exporter := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	tracer := oteltrace.New(oteltrace.Config{Provider: provider})

	ps := pubsub.New(nil)
	defer ps.AddHooks(tracer.PubSub())()
	handler := socket.NewHandler(socket.Config{PubSub: ps, Hooks: []*socket.Hooks{tracer.Socket()}})
	ctx := context.Background()
	defer handler.Shutdown(ctx)

	ctx, job := provider.Tracer("example").Start(ctx, "nightly job")
	if err := ps.Broadcast(ctx, "room:lobby", "news", nil); err != nil {
		fmt.Println(err)
	}
	job.End()
	for _, span := range exporter.GetSpans() {
		fmt.Println(span.Name, span.SpanKind)
	}
	// Output:
	// broadcast producer
	// nightly job internal
}
