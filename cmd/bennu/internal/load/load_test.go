package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/internal/testenv/leak"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

func TestMain(m *testing.M) { leak.Main(m) }

type message struct {
	ID string `json:"id"`
}

// start serves rooms that broadcast, after a pause, or refuse.
func start(t *testing.T) *channeltest.Server {
	t.Helper()
	room := channel.Define(
		func(_ *struct{}, _ context.Context, c *channel.Channel, p struct{ N int }) (any, error) {
			if strings.HasSuffix(c.Topic(), ":few") && p.N >= 3 {
				return nil, push.Reject("full")
			}
			return nil, nil
		},
		channel.On("say", func(_ *struct{}, _ context.Context, c *channel.Channel, m message) (push.Reply, error) {
			return push.OK(nil), c.Broadcast("said", m)
		}),
		channel.On("deny", func(*struct{}, context.Context, *channel.Channel, message) (push.Reply, error) {
			return push.NoReply, push.Reject("no")
		}),
		channel.On("quiet", func(*struct{}, context.Context, *channel.Channel, message) (push.Reply, error) {
			return push.NoReply, nil
		}))
	return channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": room}})
}

// config returns the load of pushes from ten connections in two rooms.
func config(s *channeltest.Server, event string) Config {
	nop := zerolog.Nop()
	return Config{
		URL:         s.URL,
		Client:      socket.ClientConfig{HTTPClient: s.Network.HTTPClient(), Logger: &nop, NoSocketChannel: true},
		Connections: 10, ConnectRate: 100, Event: event, Rate: 50, Duration: 2 * time.Second,
		Topic:   func(n int) string { return fmt.Sprint("room:", n%2) },
		Params:  func(n int) any { return map[string]int{"n": n} },
		Payload: func(_ int, id string) serializer.Payload { return serializer.Value(message{id}) },
	}
}

// near checks a duration, which a histogram has with an error of 2 % and rounding.
func near(t *testing.T, what string, got Millis, want time.Duration) {
	t.Helper()
	if d := time.Duration(got); d < want || d > want+want*2/100+time.Millisecond {
		t.Errorf("%s: %v, want %v", what, d, want)
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		s.Network.Delay(20 * time.Millisecond)
		var last Progress
		r := Run(t.Context(), config(s, "say"), func(p Progress) { last = p })
		if r.Connected != 10 || r.Pushes != 100 || r.Replies.Count != 100 || r.Deliveries.Count != 500 ||
			len(r.Errors) != 0 {
			t.Errorf("report %+v", r)
		}
		near(t, "join", r.Join.P99, 40*time.Millisecond)
		for _, l := range []Latency{r.Replies, r.Deliveries} {
			near(t, "median", l.P50, 40*time.Millisecond)
			near(t, "most", l.Max, 40*time.Millisecond)
		}
		if r.FanOut != 5 || r.PushRate < 49 || r.PushRate > 51 || r.Failed() != 0 || r.Lost != 0 {
			t.Errorf("report %+v", r)
		}
		if last.Connected != 10 || last.Pushes < 50 {
			t.Errorf("last progress %+v", last)
		}
	})
}

// TestStall checks that pushes that waited for the network are measured from when they were due.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		go func() {
			time.Sleep(time.Second) // virtual time: the load is under way
			s.Network.Drop()
			time.Sleep(500 * time.Millisecond)
			s.Network.Restore()
		}()
		r := Run(t.Context(), config(s, "say"), nil)
		if r.Replies.Count != 100 || len(r.Errors) != 0 {
			t.Errorf("report %+v", r)
		}
		if d := time.Duration(r.Replies.Max); d < 400*time.Millisecond || d > 700*time.Millisecond {
			t.Errorf("the longest reply took %v", d)
		}
		if d := time.Duration(r.Replies.P95); d < 300*time.Millisecond {
			t.Errorf("95%% took at most %v", d)
		}
	})
}

func TestErrors(t *testing.T) {
	for event, want := range map[string]map[string]uint64{
		"deny":  {"reply: no": 100},
		"quiet": {"no reply in time": 100},
		"":      {},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := Run(t.Context(), config(start(t), event), nil)
			if fmt.Sprint(r.Errors) != fmt.Sprint(want) {
				t.Errorf("%q: errors %v", event, r.Errors)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		cfg := config(start(t), "say")
		cfg.Topic = func(int) string { return "room:few" }
		r := Run(t.Context(), cfg, nil)
		if r.Connected != 3 || r.Errors["join: full"] != 7 || r.FanOut != 3 {
			t.Errorf("report %+v", r)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		s.Network.Refuse()
		if r := Run(t.Context(), config(s, "say"), nil); r.Connected != 0 || r.Failed() != 10 || r.Pushes != 0 {
			t.Errorf("report %+v", r)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		go func() {
			time.Sleep(time.Second) // virtual time: the load is under way
			s.Network.Cut()
		}()
		if r := Run(t.Context(), config(s, "say"), nil); r.Lost != 10 || r.Replies.Count < 80 {
			t.Errorf("report %+v", r)
		}
	})
}

func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := Run(ctx, config(start(t), "say"), nil)
		if r.Connected != 10 || r.Pushes == 0 || r.Pushes >= 100 {
			t.Errorf("report %+v", r)
		}
	})
}

func TestHistogram(t *testing.T) {
	var h Histogram
	var all []time.Duration
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		d := time.Duration(rnd.ExpFloat64() * float64(50*time.Millisecond))
		h.Add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for p, got := range map[float64]Millis{0.5: h.Latency().P50, 0.95: h.Latency().P95, 0.99: h.Latency().P99} {
		exact := all[int(p*float64(len(all)))-1]
		if d := time.Duration(got); d < exact || float64(d) > 1.0201*float64(exact) {
			t.Errorf("%v: %v, want %v", p, d, exact)
		}
	}
	if got := time.Duration(h.Latency().Max); got != all[len(all)-1] {
		t.Errorf("the longest is %v, want %v", got, all[len(all)-1])
	}
	h.Add(-time.Second) // clocks may step
	h.Add(time.Hour)
	if got := time.Duration(h.Latency().Max); got != time.Hour {
		t.Errorf("the longest is %v", got)
	}
}

func TestReport(t *testing.T) {
	latency := func(n uint64, ms ...float64) Latency {
		at := func(i int) Millis { return Millis(ms[i] * float64(time.Millisecond)) }
		return Latency{Count: n, P50: at(0), P95: at(1), P99: at(2), Max: at(3)}
	}
	r := &Report{
		Connections: 10, Connected: 9, Lost: 1, Seconds: 2,
		Connect: latency(10, 1, 2, 3, 4), Join: latency(9, 1, 2, 3, 4),
		Pushes: 100, Replies: latency(98, 1.5, 20, 31.234567, 1000), Deliveries: latency(500, 2, 2, 2, 2),
		FanOut: 5, PushRate: 50, Rate: 250, Errors: map[string]uint64{"no reply in time": 2, "join: full": 1},
	}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	const want = `              count  per second     p50    p95        p99      max
     connect     10                1 ms   2 ms       3 ms     4 ms
        join      9                1 ms   2 ms       3 ms     4 ms
     replies     98          49  1.5 ms  20 ms  31.235 ms  1000 ms
  deliveries    500         250    2 ms   2 ms       2 ms     2 ms

9 of 10 connections joined, 1 were lost; 100 pushes in 2.0 s (50 per second), 5.0 deliveries for each
2 × no reply in time
1 × join: full
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	text, err := json.Marshal(r)
	const replies = `"replies":{"count":98,"p50_ms":1.5,"p95_ms":20,"p99_ms":31.235,"max_ms":1000}`
	if err != nil || !strings.Contains(string(text), replies) {
		t.Errorf("%s, %v", text, err)
	}
	if err := r.Write(failing{}); !errors.Is(err, http.ErrAbortHandler) {
		t.Error(err)
	}
}

// failing is a Writer that fails.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, http.ErrAbortHandler }
