package pubsub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"bennu.example/internal/testenv/leak"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

func TestMain(m *testing.M) { leak.Main(m) }

// collector is a subscriber that encodes broadcasts by one serializer and records the frames.
type collector struct {
	by serializer.Serializer
	mu sync.Mutex
	on []string
}

func (c *collector) Deliver(b *pubsub.Broadcast) error {
	f, err := b.Frame(c.by)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = append(c.on, string(f.Data))
	return nil
}

func (c *collector) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.on)
}

func TestBroadcast(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	a, b, other := &collector{by: serializer.V2()}, &collector{by: serializer.V1()}, &collector{by: serializer.V2()}
	ps.Subscribe("room:1", a)
	ps.Subscribe("room:1", b)
	ps.Subscribe("room:2", other)

	if err := ps.Broadcast(t.Context(), "room:1", "said", map[string]int{"n": 1}); err != nil {
		t.Fatal(err)
	}
	if err := ps.BroadcastFrom(t.Context(), a, "room:1", "said", nil); err != nil {
		t.Fatal(err)
	}
	if err := ps.LocalBroadcast("room:1", "said", serializer.Value(map[string]int{"n": 3})); err != nil {
		t.Fatal(err)
	}
	if err := ps.Broadcast(t.Context(), "room:none", "said", nil); err != nil {
		t.Fatalf("without subscribers: %v", err)
	}
	want := []string{`[null,null,"room:1","said",{"n":1}]`, `[null,null,"room:1","said",{"n":3}]`}
	if got := a.got(); !slices.Equal(got, want) {
		t.Errorf("2.0.0 got %q", got)
	}
	if got := b.got(); len(got) != 3 {
		t.Errorf("1.0.0 got %q", got)
	} else {
		var m map[string]any
		err := json.Unmarshal([]byte(got[1]), &m)
		if err != nil || m["event"] != "said" || len(m["payload"].(map[string]any)) != 0 {
			t.Errorf("1.0.0 got %q (%v)", got[1], err)
		}
	}
	if got := other.got(); len(got) != 0 {
		t.Errorf("another topic got %q", got)
	}
}

func TestSubscribingTwiceDeliversTwice(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	c := &collector{by: serializer.V2()}
	first, second := ps.Subscribe("t", c), ps.Subscribe("t", c)
	third := ps.Subscribe("t", &collector{by: serializer.V2()})
	for i, want := range []int{2, 3, 3} {
		if err := ps.Broadcast(t.Context(), "t", "e", nil); err != nil {
			t.Fatal(err)
		}
		if got := len(c.got()); got != want {
			t.Fatalf("round %d: got %d, want %d", i, got, want)
		}
		switch i {
		case 0:
			first.Cancel()
			first.Cancel()
		case 1:
			second.Cancel()
		}
	}
	if n := ps.Subscribers("t"); n != 1 {
		t.Fatalf("%d subscribers", n)
	}
	third.Cancel()
	if n := ps.Subscribers("t"); n != 0 {
		t.Fatalf("%d subscribers after the last Cancel", n)
	}
}

func TestUnencodablePayloads(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	v1, v2 := &collector{by: serializer.V1()}, &collector{by: serializer.V2()}
	ps.Subscribe("t", v1)
	ps.Subscribe("t", v2)

	if err := ps.Broadcast(t.Context(), "t", "e", make(chan int)); !errors.Is(err, serializer.ErrPayload) {
		t.Errorf("a Go value without JSON: %v", err)
	}
	if len(v1.got())+len(v2.got()) != 0 {
		t.Error("it was delivered")
	}
	// Subscribers that can receive it do, and the broadcaster gets an error for the others.
	if err := ps.Broadcast(t.Context(), "t", "e", serializer.Binary([]byte{1})); !errors.Is(err, serializer.ErrPayload) {
		t.Errorf("binary with a 1.0.0 subscriber: %v", err)
	}
	if len(v2.got()) != 1 || len(v1.got()) != 0 {
		t.Errorf("got %d and %d", len(v2.got()), len(v1.got()))
	}
	// 2.0.0 accepts only objects, 1.0.0 any value.
	if err := ps.Broadcast(t.Context(), "t", "e", []int{1}); !errors.Is(err, serializer.ErrPayload) {
		t.Errorf("a list with a 2.0.0 subscriber: %v", err)
	}
	if len(v2.got()) != 1 || len(v1.got()) != 1 {
		t.Errorf("got %d and %d", len(v2.got()), len(v1.got()))
	}
}

// One encoding per serializer, however many subscribers.
func TestEncodesOncePerSerializer(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	v1, v2 := &counting{Serializer: serializer.V1()}, &counting{Serializer: serializer.V2()}
	for i := range 100 {
		by := v2
		if i%3 == 0 {
			by = v1
		}
		ps.Subscribe("t", &collector{by: by})
	}
	if err := ps.Broadcast(t.Context(), "t", "e", nil); err != nil {
		t.Fatal(err)
	}
	if v1.n.Load() != 1 || v2.n.Load() != 1 {
		t.Fatalf("encoded %d and %d times", v1.n.Load(), v2.n.Load())
	}
}

type counting struct {
	serializer.Serializer
	n atomic.Int32
}

func (c *counting) Append(dst []byte, m *serializer.Message) (serializer.Op, []byte, error) {
	c.n.Add(1)
	return c.Serializer.Append(dst, m)
}

func TestOrderPerBroadcaster(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	c := &collector{by: serializer.V2()}
	ps.Subscribe("t", c)
	var wg sync.WaitGroup
	const broadcasters, each = 4, 200
	for from := range broadcasters {
		wg.Go(func() {
			for i := range each {
				if err := ps.Broadcast(context.Background(), "t", fmt.Sprint(from), map[string]int{"i": i}); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() { // concurrent changes of the topic
			for range each {
				ps.Subscribe("t", &collector{by: serializer.V2()}).Cancel()
			}
		})
	}
	wg.Wait()
	next := make(map[string]int)
	for _, line := range c.got() {
		var m []json.RawMessage
		var body struct{ I int }
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(m[4], &body); err != nil {
			t.Fatal(err)
		}
		if from := string(m[3]); next[from] != body.I {
			t.Fatalf("%s: got %d, want %d", from, body.I, next[from])
		}
		next[string(m[3])]++
	}
	for from, n := range next {
		if n != each {
			t.Errorf("%s: got %d, want %d", from, n, each)
		}
	}
}

// fakeAdapter records its calls, and delivers the broadcasts that the test sends to in.
type fakeAdapter struct {
	mu        sync.Mutex
	interest  map[string]int
	published []string
	err       error
	in        chan *pubsub.Broadcast
	delivered chan struct{}
}

var errGap = errors.New("missed some")

func (a *fakeAdapter) Node() string { return "a" }

func (a *fakeAdapter) Health() pubsub.Health { return pubsub.Health{Queued: 7} }

func (a *fakeAdapter) Run(ctx context.Context, in pubsub.Inbox) error {
	for {
		select {
		case b := <-a.in:
			in.Deliver(b)
			in.Gap(errGap)
			a.delivered <- struct{}{}
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *fakeAdapter) Publish(_ context.Context, node string, b *pubsub.Broadcast) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.published = append(a.published, node+"/"+b.Topic+"/"+b.Event)
	return a.err
}

func (a *fakeAdapter) Subscribe(topic string)   { a.count(topic, 1) }
func (a *fakeAdapter) Unsubscribe(topic string) { a.count(topic, -1) }

func (a *fakeAdapter) count(topic string, d int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.interest[topic] += d
}

func TestAdapter(t *testing.T) {
	t.Parallel()
	a := &fakeAdapter{interest: make(map[string]int), in: make(chan *pubsub.Broadcast), delivered: make(chan struct{})}
	ps := pubsub.New(a)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- ps.Run(ctx) }()

	c := &collector{by: serializer.V2()}
	first := ps.Subscribe("t", c)
	second := ps.Subscribe("t", c)
	if a.interest["t"] != 1 {
		t.Errorf("interest %v after two subscribers", a.interest)
	}
	second.Cancel()
	if a.interest["t"] != 1 {
		t.Errorf("interest %v while one subscriber is left", a.interest)
	}
	a.err = errors.New("queue full")
	if err := ps.Broadcast(t.Context(), "t", "e", nil); !errors.Is(err, a.err) {
		t.Errorf("Broadcast returned %v, want the error of the adapter", err)
	}
	if len(c.got()) != 1 {
		t.Error("the error of the adapter prevented local delivery")
	}
	if !slices.Equal(a.published, []string{"/t/e"}) {
		t.Errorf("published %q", a.published)
	}
	if err := ps.LocalBroadcast("t", "e", nil); err != nil || len(a.published) != 1 {
		t.Errorf("a local broadcast: %v, published %q", err, a.published)
	}
	var gaps []error
	off := ps.OnGap(func(err error) { gaps = append(gaps, err) })
	a.in <- &pubsub.Broadcast{Topic: "t", Event: "remote"}
	<-a.delivered
	if len(c.got()) != 3 {
		t.Errorf("from another node: got %q", c.got())
	}
	if len(a.published) != 1 {
		t.Error("a broadcast of another node was published again")
	}
	off()
	a.in <- &pubsub.Broadcast{Topic: "none", Event: "remote"}
	<-a.delivered
	if len(gaps) != 1 || gaps[0] != errGap {
		t.Errorf("gaps %v", gaps)
	}
	a.err = nil
	err := ps.SendTo(t.Context(), "b", "t", "direct", nil)
	if err != nil || a.published[1] != "b/t/direct" || len(c.got()) != 3 {
		t.Errorf("to another node: %v, published %q", err, a.published)
	}
	err = ps.SendTo(t.Context(), "a", "t", "direct", nil)
	if err != nil || len(a.published) != 2 || len(c.got()) != 4 {
		t.Errorf("to this node: %v, published %q, got %q", err, a.published, c.got())
	}
	if ps.Node() != "a" || ps.Health().Queued != 7 {
		t.Error("Node or Health differ from those of the adapter")
	}
	first.Cancel()
	if a.interest["t"] != 0 {
		t.Errorf("interest %v after the last Cancel", a.interest)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

// nothing is a subscriber that costs little, so that a benchmark measures pubsub.
type nothing struct{ by serializer.Serializer }

func (n *nothing) Deliver(b *pubsub.Broadcast) error {
	_, err := b.Frame(n.by)
	return err
}

func crowd(n int) *pubsub.PubSub {
	ps := pubsub.New(nil)
	for range n {
		ps.Subscribe("t", &nothing{by: serializer.V2()})
	}
	return ps
}

func TestFanOutAllocatesOncePerBroadcast(t *testing.T) {
	body := serializer.Value(json.RawMessage(`{"body":"hello"}`))
	encoded, err := body.Encoded()
	if err != nil {
		t.Fatal(err)
	}
	allocs := func(n int) float64 {
		ps := crowd(n)
		return testing.AllocsPerRun(100, func() {
			if err := ps.Broadcast(context.Background(), "t", "e", encoded); err != nil {
				t.Fatal(err)
			}
		})
	}
	few, many := allocs(1), allocs(1000)
	if many > few+2 { // the collector may have emptied a pool
		t.Errorf("%v allocations for 1 subscriber, %v for 1,000", few, many)
	}
	if few > 8 {
		t.Errorf("%v allocations for a broadcast", few)
	}
}

func BenchmarkBroadcast(b *testing.B) {
	body := serializer.Value(map[string]string{"body": "hello, everyone in the room"})
	for _, n := range []int{1, 50, 1000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			ps := crowd(n)
			b.ReportAllocs()
			for b.Loop() {
				if err := ps.Broadcast(context.Background(), "t", "new_msg", body); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/subscriber")
		})
	}
}

func BenchmarkSubscribeCancel(b *testing.B) {
	ps := crowd(1000)
	s := &nothing{by: serializer.V2()}
	b.ReportAllocs()
	for b.Loop() {
		ps.Subscribe("t", s).Cancel()
	}
}
