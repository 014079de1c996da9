package prommetrics_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/internal/testenv/leak"
	"bennu.example/metrics/prommetrics"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

func TestMain(m *testing.M) { leak.Main(m) }

type member struct{}

// start serves a handler that does what its clients want, with all metrics.
func start(t *testing.T, reg *prometheus.Registry) *channeltest.Server {
	metrics := prommetrics.New(prommetrics.Config{Registerer: reg})
	ps := pubsub.New(nil)
	ps.AddHooks(metrics.PubSub())
	who := presence.New(ps, presence.Config{Hooks: []*presence.Hooks{metrics.Presence()}})
	t.Cleanup(func() { _ = who.Close(context.Background()) })
	room := channel.Define(
		func(_ *member, _ context.Context, c *channel.Channel, p map[string]any) (any, error) {
			if p["no"] != nil {
				return nil, push.Reject("no")
			}
			if p["who"] != nil {
				_, err := who.Track(c, fmt.Sprint(p["who"]), nil)
				return nil, err
			}
			return nil, nil
		},
		channel.On("shout", func(_ *member, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("shouted", p)
		}),
		channel.On("crash", func(*member, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			panic("crash")
		}),
		channel.OnAny(func(
			_ *member, _ context.Context, c *channel.Channel, event string, p serializer.Payload,
		) (push.Reply, error) {
			return push.OK(nil), c.Broadcast(event, p) // the client chooses the name
		}),
		channel.Intercept("shouted", func(_ *member, _ context.Context, c *channel.Channel, p serializer.Payload) error {
			return c.Push("shouted", p)
		}),
	)
	silent := zerolog.Nop()
	server := channeltest.Start(t, socket.Config{
		Channels: channel.Routes{"room:*": room, "lobby": room}, PubSub: ps,
		Hooks: []*socket.Hooks{metrics.Socket()}, Logger: &silent, MaxChannels: 5,
	})
	server.AllowCrashes = true
	return server
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		server := start(t, reg)
		client := server.Connect(t, nil)
		room := client.Join(t, "room:1", map[string]string{"who": "ann"})
		room.Push("shout", nil).ExpectOK(t, nil)
		room.Expect(t, "shouted", nil)
		room.Push("crash", nil)
		room.ExpectCrash(t)
		room.ExpectJoin(t)
		client.ExpectRefused(t, "lobby", map[string]bool{"no": true}, "no")
		client.ExpectRefused(t, "nowhere", nil, "unmatched topic")
		other := server.Connect(t, nil)
		other.Close(t)
		synctest.Wait()

		err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP bennu_sockets Open connections.
# TYPE bennu_sockets gauge
bennu_sockets{transport="websocket"} 1
# HELP bennu_sockets_opened_total Connections that were opened.
# TYPE bennu_sockets_opened_total counter
bennu_sockets_opened_total{transport="websocket"} 2
# HELP bennu_sockets_closed_total Connections that have ended, by the cause.
# TYPE bennu_sockets_closed_total counter
bennu_sockets_closed_total{reason="normal",transport="websocket"} 1
# HELP bennu_channels Joined channels.
# TYPE bennu_channels gauge
bennu_channels{route="room:*"} 1
# HELP bennu_joins_total Joins that were answered, by the result.
# TYPE bennu_joins_total counter
bennu_joins_total{result="ok",route="room:*"} 2
bennu_joins_total{result="rejected",route="lobby"} 1
bennu_joins_total{result="unmatched topic",route=""} 1
# HELP bennu_channels_ended_total Joined channels that have ended, by the cause.
# TYPE bennu_channels_ended_total counter
bennu_channels_ended_total{reason="crashed",route="room:*"} 1
# HELP bennu_crashes_total Callbacks that failed, and channels that a bound has ended.
# TYPE bennu_crashes_total counter
bennu_crashes_total{reason="channel crashed",route="room:*"} 1
# HELP bennu_callbacks_running Callbacks that run.
# TYPE bennu_callbacks_running gauge
bennu_callbacks_running{kind="event",route="room:*"} 0
bennu_callbacks_running{kind="intercept",route="room:*"} 0
bennu_callbacks_running{kind="join",route="lobby"} 0
bennu_callbacks_running{kind="join",route="room:*"} 0
bennu_callbacks_running{kind="terminate",route="room:*"} 0
# HELP bennu_callbacks_total Callbacks that have returned, by the result.
# TYPE bennu_callbacks_total counter
bennu_callbacks_total{kind="event",name="crash",result="panic",route="room:*"} 1
bennu_callbacks_total{kind="event",name="shout",result="ok",route="room:*"} 1
bennu_callbacks_total{kind="intercept",name="shouted",result="ok",route="room:*"} 1
bennu_callbacks_total{kind="join",name="",result="ok",route="room:*"} 2
bennu_callbacks_total{kind="join",name="",result="rejected",route="lobby"} 1
bennu_callbacks_total{kind="terminate",name="",result="ok",route="room:*"} 1
# HELP bennu_presence_changes_total Presences tracked, updated and untracked by this node.
# TYPE bennu_presence_changes_total counter
bennu_presence_changes_total{op="track",result="ok"} 2
# HELP bennu_engine_connected Whether the engine is connected, 1 or 0.
# TYPE bennu_engine_connected gauge
bennu_engine_connected 1
`), "bennu_sockets", "bennu_sockets_opened_total", "bennu_sockets_closed_total", "bennu_channels", "bennu_joins_total",
			"bennu_channels_ended_total", "bennu_crashes_total", "bennu_callbacks_running", "bennu_callbacks_total",
			"bennu_presence_changes_total", "bennu_engine_connected")
		if err != nil {
			t.Error(err)
		}
	})
}

// TestLabelsAreBounded has a client that chooses everything that it can at random: topics, events,
// params and presence keys. None of it becomes a label, and the number of series stays.
func TestLabelsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		server := start(t, reg)
		random := rand.New(rand.NewPCG(1, 2))
		word := func() string { return fmt.Sprintf("wild%x", random.Uint64()) }
		flood := func(rounds int) (series int) {
			for range rounds {
				client := server.Connect(t, nil)
				client.Socket.Channel(word(), map[string]string{word(): word()}).Join()
				room := client.Join(t, "room:"+word(), map[string]string{"who": word(), word(): word()})
				client.ExpectRefused(t, "room:"+word(), map[string]string{"no": word()}, "no")
				room.Push(word(), map[string]string{word(): word()}).ExpectOK(t, nil)
				room.Push("shout", map[string]string{word(): word()}).ExpectOK(t, nil)
				room.Push("presence_diff", word())
				room.Leave(t)
				client.Close(t)
			}
			synctest.Wait()
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				series += len(f.GetMetric())
				for _, m := range f.GetMetric() {
					for _, label := range m.GetLabel() {
						if strings.Contains(label.GetValue(), "wild") {
							t.Errorf("%s has %s=%q", f.GetName(), label.GetName(), label.GetValue())
						}
					}
				}
			}
			return series
		}
		before := flood(20)
		if after := flood(200); after != before {
			t.Errorf("%d series, and %d after more", before, after)
		}
	})
}

// TestDashboard checks that the queries of the dashboard use metrics that exist, and that every
// metric is on it.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	described := make(chan *prometheus.Desc, 1000)
	metrics := collector{Registry: prometheus.NewRegistry(), all: described}
	prommetrics.New(prommetrics.Config{Registerer: &metrics})
	close(described)
	name, labels := regexp.MustCompile(`fqName: "(\w+)"`), regexp.MustCompile(`variableLabels: \{([\w,]*)\}`)
	known := map[string][]string{}
	for d := range described {
		known[name.FindStringSubmatch(d.String())[1]] = strings.Split(labels.FindStringSubmatch(d.String())[1], ",")
	}
	shown := map[string]bool{}
	grouped := regexp.MustCompile(`by \(([^)]*)\)`)
	for _, panel := range board.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("panel %q has no query", panel.Title)
		}
		for _, target := range panel.Targets {
			found := regexp.MustCompile(`\bbennu_\w+`).FindAllString(target.Expr, -1)
			if len(found) == 0 {
				t.Errorf("panel %q: no metric in %q", panel.Title, target.Expr)
			}
			for _, metric := range found {
				base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(metric, "")
				has, ok := known[base]
				if !ok {
					t.Errorf("panel %q: there is no metric %s", panel.Title, metric)
				}
				shown[base] = true
				for _, by := range grouped.FindAllStringSubmatch(target.Expr, -1) {
					for label := range strings.SplitSeq(by[1], ", ") {
						if label != "le" && !slices.Contains(has, label) {
							t.Errorf("panel %q: %s has no label %q", panel.Title, base, label)
						}
					}
				}
			}
		}
	}
	for metric := range known {
		if !shown[metric] {
			t.Errorf("%s is on no panel", metric)
		}
	}
}

// collector is a Registerer that keeps the descriptions.
type collector struct {
	*prometheus.Registry
	all chan *prometheus.Desc
}

func (c *collector) MustRegister(cs ...prometheus.Collector) {
	for _, one := range cs {
		one.Describe(c.all)
	}
	c.Registry.MustRegister(cs...)
}

// TestDurations checks the histogram of callbacks in virtual time.
func TestDurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		metrics := prommetrics.New(prommetrics.Config{Registerer: reg, Namespace: "app", Buckets: []float64{1, 3}})
		room := channel.Define(func(*member, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			time.Sleep(2 * time.Second)
			return nil, nil
		})
		server := channeltest.Start(t, socket.Config{
			Channels: channel.Routes{"room:*": room}, Hooks: []*socket.Hooks{metrics.Socket()},
		})
		server.Join(t, "room:1", nil)
		synctest.Wait()
		if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP app_callback_seconds How long callbacks took.
# TYPE app_callback_seconds histogram
app_callback_seconds_bucket{kind="join",name="",route="room:*",le="1"} 0
app_callback_seconds_bucket{kind="join",name="",route="room:*",le="3"} 1
app_callback_seconds_bucket{kind="join",name="",route="room:*",le="+Inf"} 1
app_callback_seconds_sum{kind="join",name="",route="room:*"} 2
app_callback_seconds_count{kind="join",name="",route="room:*"} 1
`), "app_callback_seconds"); err != nil {
			t.Error(err)
		}
	})
}
