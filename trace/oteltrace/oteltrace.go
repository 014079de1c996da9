// Package oteltrace traces Bennu with OpenTelemetry: handshakes, callbacks, broadcasts and their
// deliveries, on all nodes.
//
//	tracer := oteltrace.New(oteltrace.Config{})
//	ps := pubsub.New(engine)
//	ps.AddHooks(tracer.PubSub())
//	handler := socket.NewHandler(socket.Config{
//		PubSub: ps, Hooks: []*socket.Hooks{tracer.Socket()}, Channels: channels,
//	})
//
// A connection may last for days, so it has no span. Every callback begins a trace of its own, with
// a link to the span of the handshake. A client continues its own trace with a W3C traceparent: as
// the header of the handshake, as the member "traceparent" or "$trace" of a join's params, or as
// the member "$trace" of an event's payload.
//
// The span of a broadcast belongs to the callback that makes it by a method of its Channel, or to
// the context that is given to the PubSub. Each node has a span for the delivery to its
// subscribers, below that of the broadcast. The callbacks of Intercept and Info that handle it have
// traces of their own, one for each client, with links to the broadcast. Broadcasts of recorded
// topics are not traced to other nodes.
package oteltrace

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// scope is the name of the instrumentation.
const scope = "bennu.example/trace/oteltrace"

// The members with the client's traceparent.
const (
	memberTrace = "$trace"
	paramParent = "traceparent"
)

// maxParent bounds a client's traceparent. Those of W3C have 55 bytes.
const maxParent = 256

// Config configures a Tracer. The zero value uses the global provider of OpenTelemetry.
type Config struct {
	// Provider makes the spans. Nil means otel.GetTracerProvider.
	Provider trace.TracerProvider
	// Propagator reads the headers of handshakes, and carries traces between nodes. Nil means
	// propagation.TraceContext.
	Propagator propagation.TextMapPropagator
	// Public is for clients that are not trusted: their traces are linked, not continued. Otherwise a
	// client determines whether its spans are sampled, as far as the sampler follows the parent.
	Public bool
}

// Tracer has the hooks that make spans. Its methods may be called from any goroutine.
type Tracer struct {
	cfg    Config
	tracer trace.Tracer
}

// New returns a Tracer.
func New(cfg Config) *Tracer {
	if cfg.Provider == nil {
		cfg.Provider = otel.GetTracerProvider()
	}
	if cfg.Propagator == nil {
		cfg.Propagator = propagation.TraceContext{}
	}
	return &Tracer{cfg, cfg.Provider.Tracer(scope, trace.WithInstrumentationVersion(socket.Version))}
}

// Socket returns the hooks for socket.Config.Hooks.
func (t *Tracer) Socket() *socket.Hooks {
	return &socket.Hooks{
		ConnectStart: func(ctx context.Context, r *socket.Request) context.Context {
			var client trace.SpanContext
			if r.HTTP != nil {
				carrier := propagation.HeaderCarrier(r.HTTP.Header)
				client = trace.SpanContextFromContext(t.cfg.Propagator.Extract(context.Background(), carrier))
			}
			ctx, _ = t.start(ctx, "connect", trace.SpanKindServer, client, trace.SpanContext{},
				attribute.String("bennu.transport", r.Transport), attribute.String("bennu.connection_id", r.ConnectionID))
			return ctx
		},
		ConnectDone: func(ctx context.Context, _ *socket.Request, err error) { end(ctx, err) },
		CallbackStart: func(ctx context.Context, e *socket.ChannelEvent) context.Context {
			kind := trace.SpanKindInternal
			client := trace.SpanContext{}
			switch e.Callback.Kind {
			case "join":
				kind, client = trace.SpanKindServer, parentIn(e.Callback.Payload, true)
			case "event":
				kind, client = trace.SpanKindServer, parentIn(e.Callback.Payload, false)
			case "intercept", "info":
				kind = trace.SpanKindConsumer
			}
			link := trace.SpanContextFromContext(ctx) // of the handshake
			if e.Callback.Origin != nil {
				link = trace.SpanContextFromContext(e.Callback.Origin)
			}
			name := e.Callback.Kind + " " + e.Route
			if e.Callback.Name != "" {
				name += " " + e.Callback.Name
			}
			attributes := []attribute.KeyValue{
				attribute.String("bennu.route", e.Route), attribute.String("bennu.topic", e.Topic),
				attribute.String("bennu.callback", e.Callback.Kind),
			}
			if e.Callback.Event != "" {
				attributes = append(attributes, attribute.String("bennu.event", e.Callback.Event))
			}
			if info, ok := socket.InfoFrom(ctx); ok {
				attributes = append(attributes, attribute.String("bennu.connection_id", info.ConnectionID))
			}
			ctx, _ = t.start(ctx, name, kind, client, link, attributes...)
			return ctx
		},
		CallbackDone: func(ctx context.Context, e *socket.ChannelEvent) { end(ctx, e.Err) },
	}
}

// PubSub returns the hooks for pubsub.PubSub.AddHooks.
func (t *Tracer) PubSub() *pubsub.Hooks {
	return &pubsub.Hooks{
		BroadcastStart: func(ctx context.Context, topic, event string) context.Context {
			ctx, _ = t.tracer.Start(ctx, "broadcast", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
				attribute.String("bennu.topic", topic), attribute.String("bennu.event", event)))
			return ctx
		},
		BroadcastDone: func(ctx context.Context, _, _ string, err error) { end(ctx, err) },
		Delivered: func(ctx context.Context, d pubsub.Delivery) {
			from := trace.SpanContextFromContext(ctx)
			if !from.IsValid() {
				return // a record of another node, or a broadcast of a node without tracing
			}
			now := time.Now()
			_, span := t.tracer.Start(ctx, "deliver", trace.WithSpanKind(trace.SpanKindConsumer),
				trace.WithTimestamp(now.Add(-d.Took)), trace.WithLinks(trace.Link{SpanContext: from}),
				trace.WithAttributes(attribute.String("bennu.topic", d.Topic), attribute.String("bennu.event", d.Event),
					attribute.Int("bennu.subscribers", d.Subscribers), attribute.Bool("bennu.remote", d.Remote)))
			span.End(trace.WithTimestamp(now))
		},
		Inject: func(ctx context.Context) string {
			carrier := propagation.MapCarrier{}
			t.cfg.Propagator.Inject(ctx, carrier)
			text := url.Values{}
			for key, value := range carrier {
				text.Set(key, value)
			}
			return text.Encode()
		},
		Extract: func(ctx context.Context, text string) context.Context {
			values, err := url.ParseQuery(text)
			if err != nil {
				return ctx // of a node with another propagator
			}
			carrier := propagation.MapCarrier{}
			for key := range values {
				carrier.Set(key, values.Get(key))
			}
			return t.cfg.Propagator.Extract(ctx, carrier)
		},
	}
}

// start begins a span that continues the trace of a client, or a new trace with a link.
func (t *Tracer) start(
	ctx context.Context, name string, kind trace.SpanKind, client, link trace.SpanContext,
	attributes ...attribute.KeyValue,
) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(attributes...)}
	if link.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: link}))
	}
	if client.IsValid() && t.cfg.Public {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: client}))
	}
	if client.IsValid() && !t.cfg.Public {
		ctx = trace.ContextWithRemoteSpanContext(ctx, client)
	} else {
		options = append(options, trace.WithNewRoot())
	}
	return t.tracer.Start(ctx, name, options...)
}

// end ends the span of a context. A callback that refuses a push or ends its channel has not
// failed. The texts of errors are part of the span.
func end(ctx context.Context, err error) {
	span := trace.SpanFromContext(ctx)
	defer span.End()
	var rejected *push.Error
	var reason push.Reason
	switch {
	case err == nil || errors.Is(err, channel.ErrStop):
	case errors.As(err, &rejected), errors.As(err, &reason):
		span.SetAttributes(attribute.Bool("bennu.rejected", true))
	default:
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
}

// parentIn returns the span of the client in a payload. An invalid traceparent counts as none.
func parentIn(p serializer.Payload, isJoin bool) trace.SpanContext {
	raw := p.Bytes()
	if !bytes.Contains(raw, []byte(memberTrace)) && !(isJoin && bytes.Contains(raw, []byte(paramParent))) {
		return trace.SpanContext{}
	}
	var members map[string]any
	if p.Decode(&members) != nil {
		return trace.SpanContext{} // binary, or no object
	}
	text, ok := members[memberTrace].(string)
	if !ok && isJoin {
		text, ok = members[paramParent].(string)
	}
	if !ok || len(text) > maxParent {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{paramParent: text})
	return trace.SpanContextFromContext(ctx)
}
