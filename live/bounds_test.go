package live

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

type silent struct{}

func (silent) Deliver(*pubsub.Broadcast) error { return nil }

// newPage returns a Handler whose goroutines are ended by the test.
func newPage(t testing.TB, events bool) *Handler {
	h, err := NewHandler(Config{Authorize: authorize, PubSub: pubsub.New(nil), Events: events})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestSummaryStaysSmall has as many topics, names and crashes as clients may cause. The memory and
// the summary do not grow with them.
func TestSummaryStaysSmall(t *testing.T) {
	t.Parallel()
	h := newPage(t, false)
	hooks := h.Hooks()
	long := strings.Repeat("<", 10_000)
	for i := range 20_000 {
		topic := fmt.Sprint(long[:1000], i)
		on := h.cfg.PubSub.Subscribe(topic, silent{})
		if i%1000 != 0 {
			defer on.Cancel()
		} else { // the largest topics
			h.cfg.PubSub.Subscribe(topic, silent{})
		}
		e := &socket.ChannelEvent{
			Route: "room:*", Topic: topic, Reason: "crashed", Took: time.Duration(i) * time.Microsecond,
			Callback: &channel.Callback{Kind: "event", Name: "*", Event: topic},
			Err:      fmt.Errorf("%s: %w", long, &channel.PanicError{Value: long, Stack: []byte(long)}),
		}
		hooks.CallbackDone(t.Context(), e)
		hooks.Crashed(t.Context(), e)
	}
	s := h.summarize()
	if s.Topics != 20_000 || len(s.Largest) != maxRows || s.Largest[0].Subscribers != 2 || s.Largest[20].Subscribers != 1 {
		t.Errorf("%d topics, %d listed, from %d to %d subscribers", s.Topics, len(s.Largest),
			s.Largest[0].Subscribers, s.Largest[20].Subscribers)
	}
	if n := h.record.names.Load(); n != 1 || len(s.Times) != 1 {
		t.Errorf("%d names of callbacks, %d of which are listed", n, len(s.Times))
	}
	if len(s.Crashes) != maxCrashes || len(h.record.crashes) != maxCrashes {
		t.Errorf("%d crashes", len(s.Crashes))
	}
	text, err := json.Marshal(s)
	if err != nil || len(text) > 400<<10 { // "<" is six bytes of JSON
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

// TestNamesAreBounded has more routes than are listed.
func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	h := newPage(t, false)
	for i := range 10 * maxNames {
		h.record.timing(callbackName{Route: fmt.Sprint(i)}).add(time.Second)
	}
	if n := h.record.names.Load(); n != maxNames {
		t.Errorf("%d names", n)
	}
	if n, _, _, _ := h.record.timing(otherCallbacks).quantiles(); n != 9*maxNames {
		t.Errorf("%d calls of others", n)
	}
	if s := h.summarize(); len(s.Times) != maxTimes {
		t.Errorf("%d rows", len(s.Times))
	}
}

func TestBucketsOfTimes(t *testing.T) {
	t.Parallel()
	last := -1
	for us := uint64(0); us < 1<<33; us += us/7 + 1 {
		i := bucketOf(time.Duration(us) * time.Microsecond)
		if i < last {
			t.Fatalf("%d µs is in bucket %d, and less in %d", us, i, last)
		}
		last = i
		if i == buckets-1 {
			break
		}
		if above := boundOf(i); us >= above || us > 4 && float64(above) > 1.26*float64(us) {
			t.Fatalf("%d µs is in bucket %d, below %d", us, i, above)
		}
	}
	if last != buckets-1 || bucketOf(-time.Second) != 0 || bucketOf(1<<62) != buckets-1 {
		t.Errorf("the largest is in %d of %d buckets", last, buckets)
	}
}

// TestQuantilesForgetThePast checks that times count for two periods.
func TestQuantilesForgetThePast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newPage(t, false)
		row := func() timeRow {
			rows := h.summarize().Times
			if len(rows) == 0 {
				return timeRow{}
			}
			return rows[0]
		}
		took := h.record.timing(callbackName{Route: "room:*"})
		row()
		for i := range 100 {
			took.add(time.Duration(i+1) * time.Millisecond)
		}
		near := func(us uint64, ms int) bool { return us >= uint64(ms)*1000 && us <= uint64(ms)*1260 }
		if r := row(); r.Count != 100 || !near(r.Median, 50) || !near(r.P99, 99) || !near(r.Max, 100) {
			t.Errorf("100 times: %+v", r)
		}
		time.Sleep(period)
		if r := row(); r.Count != 100 {
			t.Errorf("in the second period: %+v", r)
		}
		took.add(time.Second)
		time.Sleep(period)
		row()
		if r := row(); r.Count != 1 || !near(r.Median, 1000) {
			t.Errorf("in the third period: %+v", r)
		}
	})
}

func TestStackBeginsWithUserCode(t *testing.T) {
	t.Parallel()
	const whole = "goroutine 7 [running]:\nruntime/debug.Stack()\n\tstack.go:1\nrecovery()\n\tsafe.go:2\n" +
		"panic({0x1?, 0x2?})\n\tpanic.go:3\nmain.handler(...)\n\tmain.go:4\n"
	for stack, want := range map[string]string{
		whole: "main.handler(...)\n\tmain.go:4\n", "": "", "nothing known": "nothing known",
		"x\npanic(1": "x\npanic(1", "x\npanic(1)\n": "x\npanic(1)\n",
	} {
		if got := userStack(stack); got != want {
			t.Errorf("%q: %q, want %q", stack, got, want)
		}
	}
}

func TestClipKeepsValidText(t *testing.T) {
	t.Parallel()
	for range 1000 {
		b := make([]byte, rand.IntN(40))
		for i := range b {
			b[i] = "aé€😀\xff"[rand.IntN(11)]
		}
		if got := clip(string(b), 20); !utf8.ValidString(got) || len(got) > 3*20+3 {
			t.Fatalf("%q: %q", b, got)
		}
	}
	if got := clip("tea", 3); got != "tea" {
		t.Error(got)
	}
}

// TestEventsAreBounded floods a topic that a page shows.
func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	h := newPage(t, true)
	k := h.events.open("room:tea")
	again := h.events.open("room:tea")
	if again != k || h.cfg.PubSub.Subscribers("room:tea") != 1 {
		t.Error("two subscriptions for two pages")
	}
	if s := h.summarize(); s.Topics != 0 {
		t.Errorf("the page's own subscription counts: %+v", s.Largest)
	}
	const sent = 5000
	for i := range sent {
		payload := map[string]string{"text": strings.Repeat("x", rand.IntN(2*maxPayload))}
		if err := h.cfg.PubSub.Broadcast(t.Context(), "room:tea", fmt.Sprint("event-", i), payload); err != nil {
			t.Fatal(err)
		}
		bytes := 0
		for _, e := range k.events {
			bytes += e.cost()
		}
		if bytes > maxEventBytes || len(k.events) > maxEvents || bytes != k.bytes {
			t.Fatalf("%d events, %d bytes (%d counted)", len(k.events), bytes, k.bytes)
		}
	}
	s := &topicState{topic: "room:tea", watch: k}
	v := h.view(s)
	if n := len(v.Events); n == 0 || v.Missed != sent-uint64(n) || v.Events[n-1].Event != fmt.Sprint("event-", sent-1) {
		t.Errorf("%d events, %d missed", n, v.Missed)
	}
	if v = h.view(s); len(v.Events) != 0 || v.Missed != 0 {
		t.Errorf("again: %d events, %d missed", len(v.Events), v.Missed)
	}
	h.events.close("room:tea")
	h.events.close("room:tea")
	if h.cfg.PubSub.Subscribers("room:tea") != 0 || len(h.events.topics()) != 0 {
		t.Error("a topic is watched without a page")
	}
}

func TestBeginningOfPayloads(t *testing.T) {
	t.Parallel()
	msgpack := func(v any) serializer.Payload {
		f, err := serializer.Encode(serializer.V3(), &serializer.Message{
			Kind: serializer.KindPush, Topic: "t", Event: "e", Payload: serializer.Value(v),
		})
		if err != nil {
			t.Fatal(err)
		}
		m, err := serializer.V3().ParseClient(f.Op, f.Data)
		if err != nil {
			t.Fatal(err)
		}
		return m.Payload
	}
	encoded := func(v any) serializer.Payload {
		p, err := serializer.Value(v).Encoded()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	long := strings.Repeat("é", maxPayload)
	for _, test := range []struct {
		p    serializer.Payload
		want string
	}{
		{serializer.Payload{}, "{}"},
		{encoded(map[string]int{"a": 1}), `{"a":1}`},
		{encoded(map[string]string{"a": long}), `{"a":"` + long[:maxPayload-6] + "…"},
		{serializer.Binary([]byte{1, 2}), "(2 bytes)"},
		{msgpack(map[string]int{"a": 1}), `{"a":1}`},
		{msgpack(map[string]string{"a": strings.Repeat("x", maxConverted)}), "(4102 bytes of MessagePack)"},
	} {
		got, size := beginning(test.p)
		if got != test.want || size != len(test.p.Bytes()) {
			t.Errorf("%.50q, %d bytes, want %.50q", got, size, test.want)
		}
	}
}
