package oteltrace_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/internal/testenv/leak"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/trace/oteltrace"
)

func TestMain(m *testing.M) { leak.Main(m) }

const (
	clientTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientSpan   = "00f067aa0ba902b7"
	clientParent = "00-" + clientTrace + "-" + clientSpan + "-01"
)

type member struct{}

// spans are those that an in-memory exporter received.
type spans struct {
	t *testing.T
	*tracetest.InMemoryExporter
}

func record(t *testing.T) (*spans, *sdk.TracerProvider) {
	exporter := tracetest.NewInMemoryExporter()
	return &spans{t, exporter}, sdk.NewTracerProvider(sdk.WithSyncer(exporter))
}

// one returns the only span with this name.
func (s *spans) one(name string) tracetest.SpanStub {
	s.t.Helper()
	synctest.Wait()
	var found []tracetest.SpanStub
	var names []string
	for _, span := range s.GetSpans() {
		names = append(names, span.Name)
		if span.Name == name {
			found = append(found, span)
		}
	}
	if len(found) != 1 {
		s.t.Fatalf("%d spans %q; there are %q", len(found), name, names)
	}
	return found[0]
}

func attributeOf(span tracetest.SpanStub, key string) string {
	for _, a := range span.Attributes {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

func linksTo(span, to tracetest.SpanStub) bool {
	for _, l := range span.Links {
		if l.SpanContext.TraceID() == to.SpanContext.TraceID() && l.SpanContext.SpanID() == to.SpanContext.SpanID() {
			return true
		}
	}
	return false
}

func isChild(span, of tracetest.SpanStub) bool {
	return span.SpanContext.TraceID() == of.SpanContext.TraceID() && span.Parent.SpanID() == of.SpanContext.SpanID()
}

func room() *channel.Handler {
	return channel.Define(
		func(_ *member, _ context.Context, _ *channel.Channel, p map[string]any) (any, error) {
			if p["no"] != nil {
				return nil, push.Reject("no")
			}
			return nil, nil
		},
		channel.On("shout", func(_ *member, _ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("shouted", map[string]int{"n": 1})
		}),
		channel.On("fail", func(*member, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, errors.New("the disk is full")
		}),
		channel.Intercept("shouted", func(_ *member, _ context.Context, c *channel.Channel, p serializer.Payload) error {
			return c.Push("shouted", p)
		}),
	)
}

func start(t *testing.T, cfg oteltrace.Config, ps *pubsub.PubSub) *channeltest.Server {
	tracer := oteltrace.New(cfg)
	ps.AddHooks(tracer.PubSub())
	silent := zerolog.Nop()
	server := channeltest.Start(t, socket.Config{
		Channels: channel.Routes{"room:*": room()}, PubSub: ps, Hooks: []*socket.Hooks{tracer.Socket()}, Logger: &silent,
	})
	server.AllowCrashes = true
	return server
}

// TestTraceOfAPush follows a client's trace into the callback, the broadcast and its delivery, and
// links the interception to the broadcast.
func TestTraceOfAPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, provider := record(t)
		server := start(t, oteltrace.Config{Provider: provider}, pubsub.New(nil))
		client := server.Connect(t, nil)
		ch := client.Join(t, "room:1", nil)
		ch.Push("shout", map[string]string{"$trace": clientParent}).ExpectOK(t, nil)
		ch.Expect(t, "shouted", map[string]int{"n": 1})

		connect, join := s.one("connect"), s.one("join room:*")
		if join.SpanContext.TraceID() == connect.SpanContext.TraceID() || !linksTo(join, connect) || join.Parent.IsValid() {
			t.Errorf("the join is not a trace of its own with a link to the handshake: %+v", join)
		}
		event := s.one("event room:* shout")
		if event.SpanContext.TraceID().String() != clientTrace || event.Parent.SpanID().String() != clientSpan {
			t.Errorf("the event does not continue the client's trace: %v, %v", event.SpanContext, event.Parent)
		}
		if event.SpanKind != trace.SpanKindServer || attributeOf(event, "bennu.topic") != "room:1" ||
			attributeOf(event, "bennu.route") != "room:*" ||
			attributeOf(event, "bennu.connection_id") != attributeOf(connect, "bennu.connection_id") {
			t.Errorf("%v %v", event.SpanKind, event.Attributes)
		}
		broadcast, deliver := s.one("broadcast"), s.one("deliver")
		if !isChild(broadcast, event) || !isChild(deliver, broadcast) || !linksTo(deliver, broadcast) {
			t.Errorf("event %v, broadcast %v, deliver %v", event.SpanContext, broadcast.Parent, deliver.Parent)
		}
		if attributeOf(deliver, "bennu.subscribers") != "1" || deliver.EndTime.Before(deliver.StartTime) {
			t.Errorf("%v", deliver.Attributes)
		}
		intercept := s.one("intercept room:* shouted")
		if !linksTo(intercept, broadcast) || intercept.Parent.IsValid() {
			t.Errorf("the interception is not linked to the broadcast: %+v", intercept.Links)
		}
	})
}

// TestTraceParents tries the places in which clients send a traceparent, and invalid ones.
func TestTraceParents(t *testing.T) {
	for name, test := range map[string]struct {
		params any
		want   bool
	}{
		"traceparent":   {map[string]any{"traceparent": clientParent}, true},
		"$trace":        {map[string]any{"$trace": clientParent}, true},
		"both":          {map[string]any{"$trace": clientParent, "traceparent": "x"}, true},
		"none":          {map[string]any{"body": "hello"}, false},
		"malformed":     {map[string]any{"$trace": "00-xyz"}, false},
		"zeros":         {map[string]any{"$trace": "00-" + strings.Repeat("0", 32) + "-" + clientSpan + "-01"}, false},
		"another type":  {map[string]any{"$trace": []int{1}}, false},
		"a long one":    {map[string]any{"$trace": clientParent + strings.Repeat("-", 300)}, false},
		"another place": {map[string]any{"in": map[string]any{"$trace": clientParent}}, false},
	} {
		for _, public := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s, provider := record(t)
				server := start(t, oteltrace.Config{Provider: provider, Public: public}, pubsub.New(nil))
				server.Connect(t, nil).Join(t, "room:1", test.params)
				join := s.one("join room:*")
				continued := join.SpanContext.TraceID().String() == clientTrace
				linked := false
				for _, l := range join.Links {
					linked = linked || l.SpanContext.TraceID().String() == clientTrace
				}
				if continued != (test.want && !public) || linked != (test.want && public) {
					t.Errorf("%s, public %v: continued %v, linked %v", name, public, continued, linked)
				}
			})
		}
	}
}

func TestTraceOfAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, provider := record(t)
		server := start(t, oteltrace.Config{Provider: provider}, pubsub.New(nil))
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://bennu.test/socket/longpoll?vsn=2.0.0", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("traceparent", clientParent)
		resp, err := server.Network.HTTPClient().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		connect := s.one("connect")
		if connect.SpanContext.TraceID().String() != clientTrace || attributeOf(connect, "bennu.transport") != "longpoll" {
			t.Errorf("%v %v", connect.SpanContext, connect.Attributes)
		}
	})
}

// TestErrors checks that a failure is an error of the span, and a rejection is not.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, provider := record(t)
		server := start(t, oteltrace.Config{Provider: provider}, pubsub.New(nil))
		client := server.Connect(t, nil)
		client.ExpectRefused(t, "room:1", map[string]bool{"no": true}, "no")
		join := s.one("join room:*")
		if join.Status.Code.String() != "Unset" || attributeOf(join, "bennu.rejected") != "true" {
			t.Errorf("%v %v", join.Status, join.Attributes)
		}
		ch := client.Join(t, "room:2", nil)
		ch.Push("fail", nil)
		ch.ExpectCrash(t)
		if fail := s.one("event room:* fail"); fail.Status.Code.String() != "Error" || len(fail.Events) != 1 {
			t.Errorf("%v %v", fail.Status, fail.Events)
		}
	})
}

// TestTraceOfTwoNodes follows a broadcast to a client of another node.
func TestTraceOfTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, provider := record(t)
		cluster := pubsubtest.NewCluster()
		one, two := pubsub.New(cluster.Node("one")), pubsub.New(cluster.Node("two"))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		for _, ps := range []*pubsub.PubSub{one, two} {
			go func() { ended <- ps.Run(ctx) }()
		}
		defer func() { cancel(); <-ended; <-ended }()
		synctest.Wait()
		one.AddHooks(oteltrace.New(oteltrace.Config{Provider: provider}).PubSub())
		server := start(t, oteltrace.Config{Provider: provider}, two)
		ch := server.Join(t, "room:1", nil)
		parent, span := provider.Tracer("test").Start(ctx, "job")
		if err := one.Broadcast(parent, "room:1", "shouted", nil); err != nil {
			t.Error(err)
		}
		span.End()
		ch.Expect(t, "shouted", nil)
		job, broadcast, deliver := s.one("job"), s.one("broadcast"), s.one("deliver")
		if !isChild(broadcast, job) || !isChild(deliver, broadcast) || attributeOf(deliver, "bennu.remote") != "true" {
			t.Errorf("job %v, broadcast %v, deliver %v", job.SpanContext, broadcast.Parent, deliver.Parent)
		}
		if !linksTo(s.one("intercept room:* shouted"), broadcast) {
			t.Error("the interception on the other node is not linked to the broadcast")
		}
	})
}
