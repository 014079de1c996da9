package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// failingLog is a Memory whose Append fails as long as err is set.
type failingLog struct {
	*history.Memory
	err error
}

func (l *failingLog) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	if l.err != nil {
		return history.Record{}, l.err
	}
	return l.Memory.Append(ctx, topic, r, k)
}

var rules = history.Rules{
	"room:*":   {Count: 100},
	"some:*":   {Events: []string{"kept"}},
	"room:off": {Events: []string{}},
}

func newRecorded() (*pubsub.PubSub, *history.Memory) {
	m := history.NewMemory(history.MemoryConfig{})
	return pubsub.NewRecorded(nil, m, rules), m
}

// recorder is a subscriber that keeps what it receives.
type recorder struct {
	mu      sync.Mutex
	got     []*pubsub.Broadcast
	skipped []*pubsub.Broadcast
	lost    []time.Duration
	err     error // of Deliver
}

func (r *recorder) Deliver(b *pubsub.Broadcast) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, b)
	return r.err
}

func (r *recorder) Skip(b *pubsub.Broadcast) { r.skipped = append(r.skipped, b) }
func (r *recorder) Lost(after time.Duration) { r.lost = append(r.lost, after) }

func (r *recorder) ClientID() string { return "client" }

func (r *recorder) events() (events []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.got {
		events = append(events, b.Event)
	}
	return events
}

func TestRecordedBroadcast(t *testing.T) {
	t.Parallel()
	ps, log := newRecorded()
	a, b := new(recorder), new(recorder)
	ps.Subscribe("room:1", a)
	ps.Subscribe("room:1", b)
	begin, err := ps.Since(t.Context(), "room:1", history.Position{}, 1)
	if !errors.Is(err, history.ErrPosition) {
		t.Errorf("Since the zero position: %v, %v", begin, err)
	}
	if err := ps.Broadcast(t.Context(), "room:1", "first", map[string]int{"n": 1}); err != nil {
		t.Fatal(err)
	}
	if err := ps.BroadcastFrom(t.Context(), a, "room:1", "second", nil); err != nil {
		t.Fatal(err)
	}
	p, err := ps.Append(t.Context(), "room:1", "third", serializer.Binary([]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	page, err := ps.Before(t.Context(), "room:1", history.Position{}, 10)
	if err != nil || len(page.Records) != 3 || page.Records[2].Position != p || page.Top != p {
		t.Fatalf("got %+v, %v", page, err)
	}
	for i, got := range b.got {
		want := page.Records[i]
		if r := got.Record(); r == nil || r.Position != want.Position || r.Prev != want.Prev || r.Event != got.Event ||
			got.Topic != "room:1" || string(got.Payload.Bytes()) != string(want.Payload.Bytes()) && i != 1 {
			t.Errorf("record %d was delivered as %+v, want %+v", i, r, want)
		}
	}
	if got := b.events(); !slices.Equal(got, []string{"first", "second", "third"}) {
		t.Errorf("got %v", got)
	}
	got := a.events()
	if !slices.Equal(got, []string{"first", "third"}) || len(a.skipped) != 1 || a.skipped[0] != b.got[1] {
		t.Errorf("the sender got %v, and was skipped for %d", got, len(a.skipped))
	}
	if from := []string{page.Records[0].From, page.Records[1].From}; from[0] != "" || from[1] != "client" {
		t.Errorf("From is %q", from)
	}
	rest, err := ps.Since(t.Context(), "room:1", page.Records[0].Position, 1)
	if err != nil || len(rest.Records) != 1 || !rest.More {
		t.Errorf("got %+v, %v", rest, err)
	}
	if h := ps.LogHealth(); !h.Connected || h.Appended != 3 || h != log.Health() {
		t.Errorf("got %+v", h)
	}
}

// TestStoredOrDeliveredToNobody checks sentence 9 of the guarantees.
func TestStoredOrDeliveredToNobody(t *testing.T) {
	t.Parallel()
	log := &failingLog{Memory: history.NewMemory(history.MemoryConfig{})}
	ps := pubsub.NewRecorded(nil, log, rules)
	s := &recorder{err: errors.New("this version cannot carry it")}
	ps.Subscribe("room:1", s)
	for name, test := range map[string]struct {
		log     error
		payload any
		want    error
	}{
		"unavailable":             {history.ErrUnavailable, nil, history.ErrUnavailable},
		"full":                    {history.ErrFull, nil, history.ErrFull},
		"too large":               {nil, serializer.Binary(make([]byte, 2<<20)), history.ErrTooLarge},
		"no JSON":                 {nil, make(chan int), serializer.ErrPayload},
		"an array":                {nil, []int{1}, serializer.ErrPayload},
		"a string":                {nil, "text", serializer.ErrPayload},
		"null":                    {nil, []byte(nil), serializer.ErrPayload},
		"a reserved member":       {nil, map[string]int{"$pos": 1}, history.ErrReserved},
		"an escaped one":          {nil, jsonOf(`{"a":{},"\u0024x":1}`), history.ErrReserved},
		"a reserved one in MsgPk": {nil, v3Payload(t, "\x81\xa2$x\x01"), history.ErrReserved},
		"a position":              {nil, serializer.Payload{}.WithPosition(history.Position{}), history.ErrReserved},
	} {
		log.err = test.log
		if err := ps.Broadcast(t.Context(), "room:1", "e", test.payload); !errors.Is(err, test.want) {
			t.Errorf("%s: Broadcast returned %v", name, err)
		}
		p, err := ps.Append(t.Context(), "room:1", "e", test.payload)
		if !errors.Is(err, test.want) || !p.IsZero() || !strings.Contains(err.Error(), "pubsub: record e on room:1: ") {
			t.Errorf("%s: Append returned %v, %v", name, p, err)
		}
	}
	if len(s.got) > 0 || ps.LogHealth().Appended > 0 {
		t.Errorf("%d events were delivered, %d stored", len(s.got), ps.LogHealth().Appended)
	}
	log.err = nil
	for _, payload := range []any{
		nil, struct{}{}, map[string]any{"a": map[string]int{"$x": 1}, "b": "$"}, serializer.Binary(nil),
		v3Payload(t, "\x81\xa1x\x01"),
	} {
		if err := ps.Broadcast(t.Context(), "room:1", "e", payload); err != nil { // the subscriber's error is its own
			t.Errorf("%v: %v", payload, err)
		}
	}
	if len(s.got) != 5 || ps.LogHealth().Appended != 5 {
		t.Errorf("%d events were delivered, %d stored", len(s.got), ps.LogHealth().Appended)
	}
}

func jsonOf(text string) (p serializer.Payload) {
	_ = p.UnmarshalJSON([]byte(text))
	return p
}

// v3Payload returns the payload of a message of version 3.0.0.
func v3Payload(t testing.TB, body string) serializer.Payload {
	t.Helper()
	m, err := serializer.V3().Parse(serializer.OpBinary, []byte("\x95\xa11\xa11\xa1t\xa1e"+body))
	if err != nil {
		t.Fatal(err)
	}
	return m.Payload
}

func TestWhatIsNotRecorded(t *testing.T) {
	t.Parallel()
	ps, log := newRecorded()
	s := new(recorder)
	for _, topic := range []string{"room:1", "room:off", "some:1", "other", "\x00room:1"} {
		ps.Subscribe(topic, s)
	}
	ctx := t.Context()
	for _, f := range []func() error{
		func() error { return ps.LocalBroadcast("room:1", "e", nil) },
		func() error { return ps.SendTo(ctx, "", "room:1", "e", nil) },
		func() error { return ps.Broadcast(ctx, "room:1", "presence_diff", nil) },
		func() error { return ps.Broadcast(ctx, "room:1", "phx_close", nil) },
		func() error { return ps.Broadcast(ctx, "room:off", "e", nil) },
		func() error { return ps.Broadcast(ctx, "some:1", "other", nil) },
		func() error { return ps.Broadcast(ctx, "other", "e", nil) },
		func() error { return ps.Broadcast(ctx, "\x00room:1", "e", map[string]int{"$x": 1}) },
		func() error { return ps.Control().Broadcast(ctx, "room:1", "e", nil) },
	} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	if len(s.got) != 8 || log.Health().Appended != 0 {
		t.Errorf("%d events were delivered, %d stored", len(s.got), log.Health().Appended)
	}
	for _, b := range s.got {
		if b.Record() != nil {
			t.Errorf("%s on %s has a record", b.Event, b.Topic)
		}
	}
	plain := pubsub.New(nil)
	for _, ps := range []*pubsub.PubSub{ps, plain} {
		for _, topic := range []string{"other", "room:off"} {
			_, err1 := ps.Append(ctx, topic, "e", nil)
			_, err2 := ps.AppendOnce(ctx, "id", topic, "e", nil)
			_, err3 := ps.Since(ctx, topic, history.Position{}, 1)
			_, err4 := ps.Before(ctx, topic, history.Position{}, 1)
			_, err5 := ps.Recorded().Open(ctx, new(follow.Reader[*pubsub.Broadcast]), topic, follow.Start{})
			for i, err := range []error{err1, err2, err3, err4, ps.Forget(ctx, topic), err5} {
				if !errors.Is(err, history.ErrNoRule) {
					t.Errorf("call %d on %s: %v", i, topic, err)
				}
			}
			if _, ok := ps.Recorded().Rule(topic); ok {
				t.Errorf("%s has a rule", topic)
			}
		}
	}
	if k, ok := ps.Recorded().Rule("room:1"); !ok || k.Count != 100 || k.MaxReplay != 1000 {
		t.Errorf("got %+v", k)
	}
	if h := plain.LogHealth(); h != (history.Health{}) {
		t.Errorf("got %+v", h)
	}
}

func TestNewRecordedPanics(t *testing.T) {
	t.Parallel()
	memory := history.NewMemory(history.MemoryConfig{})
	for name, test := range map[string]struct {
		a     pubsub.Adapter
		log   history.Log
		rules history.Rules
		want  string
	}{
		"no log":        {nil, nil, rules, "the log is nil"},
		"no rules":      {nil, memory, nil, "history: rules are nil"},
		"bad rules":     {nil, memory, history.Rules{"*a": {}}, "may only stand at the end"},
		"an adapter":    {struct{ pubsub.Adapter }{}, memory, rules, "cannot be combined with an adapter"},
		"a waiting log": {struct{ pubsub.Adapter }{}, waitingLog{memory}, rules, "cannot be combined with an adapter"},
	} {
		func() {
			defer func() {
				got := fmt.Sprint(recover())
				if !strings.Contains(got, test.want) || !strings.HasPrefix(got, "pubsub: NewRecorded: ") {
					t.Errorf("%s: %s", name, got)
				}
			}()
			pubsub.NewRecorded(test.a, test.log, test.rules)
		}()
	}
}

type waitingLog struct{ history.Log }

func (waitingLog) Local() (instant bool) { return false }

func TestRunOfARecordedPubSubReturns(t *testing.T) {
	t.Parallel()
	ps, _ := newRecorded()
	if err := ps.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAppendOnce(t *testing.T) {
	t.Parallel()
	ps, _ := newRecorded()
	s := new(recorder)
	ps.Subscribe("room:1", s)
	var positions []history.Position
	for _, id := range []string{"a", "b", "a", "", "", "b"} {
		p, err := ps.AppendOnce(t.Context(), id, "room:1", "e"+id, nil)
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, p)
	}
	if positions[0] != positions[2] || positions[1] != positions[5] || positions[3] == positions[4] {
		t.Errorf("got %v", positions)
	}
	if got := s.events(); !slices.Equal(got, []string{"ea", "eb", "e", "e"}) {
		t.Errorf("got %v", got)
	}
	_, err := ps.AppendOnce(t.Context(), strings.Repeat("i", 65), "room:1", "e", nil)
	if !errors.Is(err, history.ErrTooLarge) {
		t.Errorf("a long id: %v", err)
	}
}

// preparing is a subscriber whose broadcasts are prepared.
type preparing struct {
	recorder
	ps       *pubsub.PubSub
	prepared []any
}

func (p *preparing) Preparer() prepare.Preparer[*pubsub.Broadcast] { return p }

func (p *preparing) Prepare(b *pubsub.Broadcast) (any, error) {
	if b.Record() != nil {
		panic("the record is known before it was appended")
	}
	_ = p.ps.Broadcast(context.Background(), "room:2", "other", nil) // hangs if a lock is held
	_ = p.ps.Forget(context.Background(), "room:1")
	return b.Event, nil
}

func (p *preparing) DeliverPrepared(b *pubsub.Broadcast, value any) error {
	p.prepared = append(p.prepared, value)
	return p.Deliver(b)
}

func TestRecordedBroadcastsArePrepared(t *testing.T) {
	t.Parallel()
	ps, _ := newRecorded()
	s := &preparing{ps: ps}
	ps.Subscribe("room:1", s)
	for range 2 {
		if err := ps.Broadcast(t.Context(), "room:1", "e", nil); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(s.prepared, []any{"e", "e"}) {
		t.Errorf("got %v", s.prepared)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	ps, _ := newRecorded()
	var subscribers [100]recorder
	for i := range subscribers {
		ps.Subscribe("room:1", &subscribers[i])
	}
	old, err := ps.Append(t.Context(), "room:1", "e", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ps.Forget(t.Context(), "room:1"); err != nil {
		t.Fatal(err)
	}
	slowest := time.Duration(0)
	for i := range subscribers {
		if len(subscribers[i].lost) != 1 {
			t.Fatalf("a subscriber was notified %d times", len(subscribers[i].lost))
		}
		slowest = max(slowest, subscribers[i].lost[0])
	}
	if slowest != 49*40*time.Millisecond {
		t.Errorf("the last subscriber ends after %v", slowest)
	}
	if _, err := ps.Since(t.Context(), "room:1", old, 1); !errors.Is(err, history.ErrEpoch) ||
		!strings.Contains(err.Error(), `pubsub: read room:1 after "`+old.String()) {
		t.Errorf("got %v", err)
	}
	if err := ps.Broadcast(t.Context(), "room:1", "new", nil); err != nil {
		t.Fatal(err)
	}
	if got := subscribers[3].events(); !slices.Equal(got, []string{"e", "new"}) || len(subscribers[3].lost) != 1 {
		t.Errorf("got %v", got)
	}
}

// TestOthersWriteToTheLog checks that a record that was not appended through the PubSub is
// delivered before the next one, and that readers are notified if the log was changed otherwise.
func TestOthersWriteToTheLog(t *testing.T) {
	t.Parallel()
	ps, log := newRecorded()
	s := new(recorder)
	ps.Subscribe("room:1", s)
	broadcast := func(event string) {
		t.Helper()
		if err := ps.Broadcast(t.Context(), "room:1", event, nil); err != nil {
			t.Fatal(err)
		}
	}
	broadcast("a")
	for i := range 3 {
		if _, err := log.Append(t.Context(), "room:1", history.Record{Event: fmt.Sprint(i)}, history.Keep{}); err != nil {
			t.Fatal(err)
		}
	}
	broadcast("b")
	if got := s.events(); !slices.Equal(got, []string{"a", "0", "1", "2", "b"}) || len(s.lost) != 0 {
		t.Errorf("got %v; lost %v", got, s.lost)
	}
	if err := log.Forget(t.Context(), "room:1"); err != nil {
		t.Fatal(err)
	}
	broadcast("c")
	broadcast("d")
	if got := s.events()[5:]; !slices.Equal(got, []string{"c", "d"}) || len(s.lost) != 1 {
		t.Errorf("got %v; lost %v", got, s.lost)
	}
}

func TestTopicsAreReleased(t *testing.T) {
	t.Parallel()
	ps, log := newRecorded()
	var subs []*pubsub.Subscription
	for range 2 {
		for i := range 10 {
			subs = append(subs, ps.Subscribe(fmt.Sprint("room:", i), new(recorder)))
		}
	}
	// A topic that never had a record is unknown again when it is not watched any more.
	if err := log.Forget(t.Context(), "unknown"); err != nil { // changes the epoch of unknown topics
		t.Fatal(err)
	}
	tops := func() []history.Position {
		all, err := log.Tops(t.Context(), []string{"room:1", "unknown"})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := tops(); all[0].Epoch() == all[1].Epoch() {
		t.Errorf("room:1 is not watched: %v", all)
	}
	for _, s := range subs {
		s.Cancel()
		s.Cancel()
	}
	if all := tops(); all[0].Epoch() != all[1].Epoch() {
		t.Errorf("room:1 is still watched: %v", all)
	}
}

func TestPanicInARecordedDelivery(t *testing.T) {
	t.Parallel()
	ps, _ := newRecorded()
	s := new(recorder)
	ps.Subscribe("room:1", faulty{})
	ps.Subscribe("room:1", s)
	panics := 0
	ps.OnPanic(func(any, []byte) {
		panics++
		_ = ps.Forget(t.Context(), "room:2") // hangs if a lock is held
	})
	for i := range 2 {
		if err := ps.Broadcast(t.Context(), "room:1", "e", nil); err != nil || panics != i+1 || len(s.got) != i+1 {
			t.Errorf("%v, %d panics, %d delivered", err, panics, len(s.got))
		}
	}
	// A subscriber that ends its goroutine leaves no lock, and the cursor behind the record.
	exiting := ps.Subscribe("room:1", exiter{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = ps.Broadcast(t.Context(), "room:1", "e", nil)
	}()
	<-done
	exiting.Cancel()
	before := len(s.got)
	if err := ps.Broadcast(t.Context(), "room:1", "e", nil); err != nil || len(s.got) != before+1 || len(s.lost) != 0 {
		t.Errorf("%v, %d delivered after %d", err, len(s.got), before)
	}
}

type exiter struct{}

func (exiter) Deliver(*pubsub.Broadcast) error { runtime.Goexit(); return nil }

func TestPositionedFrames(t *testing.T) {
	t.Parallel()
	ps, _ := newRecorded()
	s := new(recorder)
	ps.Subscribe("room:1", s)
	for _, payload := range []any{map[string]int{"n": 1}, nil, serializer.Binary([]byte("bytes"))} {
		if err := ps.Broadcast(t.Context(), "room:1", "e", payload); err != nil {
			t.Fatal(err)
		}
	}
	text := func(f *serializer.Frame, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return string(f.Data)
	}
	v1, v2 := serializer.V1(), serializer.V2()
	for i, want := range []struct{ plain, positioned string }{
		{`{"n":1}`, `{"$pos":"%s","n":1}`},
		{`{}`, `{"$pos":"%s"}`},
		{"", ""},
	} {
		b := s.got[i]
		at := b.Record().Position.String()
		marker := `[null,null,"room:1","$history",{"$pos":"` + at + `"}]`
		if got := text(b.MarkerFrame(v2)); got != marker {
			t.Errorf("the marker is %s", got)
		}
		if want.plain == "" {
			if got := text(b.PositionedFrame(v2)); got != text(b.Frame(v2)) || !strings.HasSuffix(got, "bytes") {
				t.Errorf("the binary frame is %q", got)
			}
			continue
		}
		if got := text(b.PositionedFrame(v2)); got != `[null,null,"room:1","e",`+fmt.Sprintf(want.positioned, at)+`]` {
			t.Errorf("got %s", got)
		}
		if got := text(b.Frame(v2)); got != `[null,null,"room:1","e",`+want.plain+`]` {
			t.Errorf("got %s", got)
		}
		if got := text(b.PositionedFrame(v1)); !strings.Contains(got, at) {
			t.Errorf("got %s", got)
		}
		first, _ := b.PositionedFrame(v2)
		again, _ := b.PositionedFrame(v2)
		if first != again {
			t.Error("the frame is not shared")
		}
	}
}

func TestBroadcastSize(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(pubsub.Broadcast{}); n > 128 {
		t.Errorf("a Broadcast has %d bytes, more than 128", n)
	}
}
