package history_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/history"
	"bennu.example/history/historytest"
	"bennu.example/serializer"
)

func TestMemory(t *testing.T) {
	historytest.Run(t, func(*testing.T) historytest.Engine {
		const maxTopics = 20_000
		m := history.NewMemory(history.MemoryConfig{MaxTopics: maxTopics})
		return historytest.Engine{
			Log:       m,
			Restart:   func(testing.TB) history.Log { return history.NewMemory(history.MemoryConfig{}) },
			Topics:    func(testing.TB) int { n, _, _, _ := m.Size(); return n },
			MaxTopics: maxTopics,
			// It has no store apart from itself, and one node.
			Skips: []string{"Rollback", "Node", "Freeze", "Disconnect", "LoseRecords", "LoseMeta"},
		}
	})
}

func add(t testing.TB, m *history.Memory, topic string, size int, k history.Keep) history.Record {
	t.Helper()
	r, err := m.Append(t.Context(), topic, history.Record{Event: "e", Payload: serializer.Binary(make([]byte, size))}, k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func top(t testing.TB, m *history.Memory, topic string) history.Position {
	t.Helper()
	tops, err := m.Tops(t.Context(), []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	return tops[0]
}

func retained(t testing.TB, m *history.Memory, topic string) []history.Record {
	t.Helper()
	b, err := m.Before(t.Context(), topic, history.Position{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return b.Records
}

func TestMemoryEpochs(t *testing.T) {
	t.Parallel()
	a, b := history.NewMemory(history.MemoryConfig{}), history.NewMemory(history.MemoryConfig{})
	if x, y := top(t, a, "t"), top(t, b, "t"); x == y || len(x.Epoch()) != 8 || x.Offset() != 0 || !x.IsBeginning() {
		t.Errorf("the beginnings of two logs are %v and %v", x, y)
	}
	if !a.Local() {
		t.Error("a Memory is not instant")
	}
}

func TestMemoryMaxTopics(t *testing.T) {
	t.Parallel()
	m := history.NewMemory(history.MemoryConfig{MaxTopics: 3})
	m.Watch("watched", nil)
	watched := add(t, m, "watched", 1, history.Keep{})
	beginning := top(t, m, "unknown")
	tops := map[string]history.Position{}
	for _, topic := range []string{"a", "b", "c", "a", "d"} { // b is silent for the longest time
		tops[topic] = add(t, m, topic, 1, history.Keep{}).Position
	}
	for topic, known := range map[string]bool{"a": true, "b": false, "c": true, "d": true, "watched": true} {
		if got := len(retained(t, m, topic)) > 0; got != known {
			t.Errorf("%s is known: %v, want %v", topic, got, known)
		}
	}
	if top(t, m, "watched") != watched.Position {
		t.Error("the top of the watched topic has changed")
	}
	// Nothing of the forgotten topic may be continued, whether it has new records or not.
	for range 2 {
		for _, p := range []history.Position{beginning, tops["b"]} {
			if _, err := m.Read(t.Context(), "b", p, 1); !errors.Is(err, history.ErrEpoch) {
				t.Errorf("after %v: %v, want ErrEpoch", p, err)
			}
		}
		add(t, m, "b", 1, history.Keep{})
	}
	m.Unwatch("watched") // now it is the newest of four
	if n, idle, _, _ := m.Size(); n != 3 || idle != 3 {
		t.Errorf("%d topics, %d of them idle", n, idle)
	}
	if _, err := m.Read(t.Context(), "watched", watched.Prev, 1); err != nil {
		t.Error(err)
	}
}

func TestMemoryWatchedTopicWithoutRecords(t *testing.T) {
	t.Parallel()
	m := history.NewMemory(history.MemoryConfig{MaxTopics: 1})
	m.Watch("t", nil)
	beginning := top(t, m, "t")
	add(t, m, "a", 1, history.Keep{})
	add(t, m, "b", 1, history.Keep{}) // forgets a, so that unknown topics have another epoch
	if top(t, m, "t") != beginning || top(t, m, "unknown").Epoch() == beginning.Epoch() {
		t.Errorf("the beginnings are %v and %v, before %v", top(t, m, "t"), top(t, m, "unknown"), beginning)
	}
	r := add(t, m, "t", 1, history.Keep{})
	if b, err := m.Read(t.Context(), "t", beginning, 10); err != nil || len(b.Records) != 1 || r.Prev != beginning {
		t.Errorf("after the beginning: %+v, %v", b, err)
	}
	m.Watch("u", nil)
	m.Unwatch("u")
	m.Unwatch("u")
	if n, _, _, _ := m.Size(); n != 2 {
		t.Errorf("%d topics, want 2: u never had a record", n)
	}
}

func TestMemoryMaxBytes(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	m := history.NewMemory(history.MemoryConfig{MaxBytes: most})
	add(t, m, "active", 1000, history.Keep{})
	silent := add(t, m, "silent", 1000, history.Keep{})
	for i := range 5000 {
		if i < 1100 {
			add(t, m, "active", 0, history.Keep{})
		}
		if i == 1100 && (len(retained(t, m, "silent")) > 0 || len(retained(t, m, "active")) < 200) {
			t.Fatal("the silent topic must lose its records before the active one")
		}
		add(t, m, fmt.Sprint(i%10), 1000, history.Keep{Bytes: 10 << 20, Count: 1 << 20})
		if _, _, _, bytes := m.Size(); bytes > most {
			t.Fatalf("%d bytes after %d records", bytes, i)
		}
	}
	if len(retained(t, m, "silent")) > 0 || top(t, m, "silent") != silent.Position {
		t.Error("the silent topic must lose its records, but not its top")
	}
	total := 0
	for i := range 10 {
		total += len(retained(t, m, fmt.Sprint(i)))
	}
	if total < most/1100*8/10 {
		t.Errorf("only %d records are left", total)
	}
	big := add(t, m, "big", most-2000, history.Keep{Bytes: most})
	if len(retained(t, m, "big")) != 1 {
		t.Errorf("the newest record %v is not retained", big.Position)
	}
	k := history.Keep{Bytes: 10 * most}
	_, err := m.Append(t.Context(), "big", history.Record{Event: "e", Payload: serializer.Binary(make([]byte, most))}, k)
	if !errors.Is(err, history.ErrTooLarge) {
		t.Errorf("a record over MaxBytes: %v", err)
	}
}

func TestMemoryBytesReturnToZero(t *testing.T) {
	t.Parallel()
	m := history.NewMemory(history.MemoryConfig{})
	for i := range 1000 {
		r := history.Record{Event: "e", ID: fmt.Sprint(i % 50), Payload: serializer.Binary(make([]byte, i*7%3000))}
		if _, err := m.Append(t.Context(), fmt.Sprint(i%7), r, history.Keep{Count: 20}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 7 {
		if err := m.Forget(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if topics, idle, filled, bytes := m.Size(); topics+idle+filled+bytes != 0 {
		t.Errorf("%d topics, %d idle, %d with records, %d bytes", topics, idle, filled, bytes)
	}
}

func TestMemoryExpiresWithoutCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := history.NewMemory(history.MemoryConfig{})
		add(t, m, "hour", 1, history.Keep{})
		add(t, m, "minute", 1, history.Keep{Age: time.Minute})
		time.Sleep(30 * time.Second)
		add(t, m, "minute", 1, history.Keep{Age: time.Minute})
		add(t, m, "hour", 1, history.Keep{})
		for _, test := range []struct {
			at             time.Duration
			minute, filled int
		}{
			{59 * time.Second, 2, 2}, {61 * time.Second, 1, 2}, {92 * time.Second, 0, 1}, {time.Hour + time.Second, 0, 1},
			{time.Hour + 32*time.Second, 0, 0},
		} {
			time.Sleep(test.at - time.Since(start2000))
			synctest.Wait()
			if _, _, filled, bytes := m.Size(); filled != test.filled || (bytes == 0) != (filled == 0) {
				t.Errorf("after %v: %d topics have records, want %d; %d bytes", test.at, filled, test.filled, bytes)
			}
			if n := len(retained(t, m, "minute")); n != test.minute {
				t.Errorf("after %v: %d records, want %d", test.at, n, test.minute)
			}
		}
		if p := top(t, m, "minute"); p.Offset() != 2 {
			t.Errorf("the top is %v", p)
		}
	})
}

// start2000 is the time at which a synctest bubble begins.
var start2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestMemoryAgeIsExact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := history.NewMemory(history.MemoryConfig{})
		k := history.Keep{Age: 100 * time.Millisecond}
		first := add(t, m, "t", 1, k)
		time.Sleep(99 * time.Millisecond)
		second := add(t, m, "t", 1, k)
		if b, err := m.Read(t.Context(), "t", first.Prev, 10); err != nil || len(b.Records) != 2 {
			t.Errorf("before its age: %d records, %v", len(b.Records), err)
		}
		time.Sleep(time.Millisecond) // sooner than the next sweep
		if _, err := m.Read(t.Context(), "t", first.Prev, 10); !errors.Is(err, history.ErrTrimmed) {
			t.Errorf("at its age: %v", err)
		}
		b, err := m.Read(t.Context(), "t", first.Position, 10)
		if err != nil || len(b.Records) != 1 || !b.Records[0].Time.Equal(second.Time) {
			t.Errorf("after the expired record: %+v, %v", b, err)
		}
	})
}

// TestMemoryAfterClockJumps checks that records have the time of the wall clock, and expire by the
// monotonic one.
func TestMemoryAfterClockJumps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		m := history.NewMemory(history.MemoryConfig{Now: func() time.Time { return time.Now().Add(ahead) }})
		k := history.Keep{Age: time.Minute}
		for i, jump := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour, time.Second} {
			ahead = jump
			if r := add(t, m, "t", 1, k); !r.Time.Equal(time.Now().Add(jump)) {
				t.Errorf("%v ahead: the record has the time %v", jump, r.Time)
			}
			all := retained(t, m, "t")
			if len(all) != i+1 || !all[i].Time.Equal(time.Now().Add(jump)) {
				t.Errorf("%v ahead: %d records are retained, the last of %v", jump, len(all), all[len(all)-1].Time)
			}
		}
		time.Sleep(time.Minute - time.Millisecond)
		if n := len(retained(t, m, "t")); n != 4 {
			t.Errorf("%d records are retained before they expire", n)
		}
		time.Sleep(time.Millisecond)
		if n := len(retained(t, m, "t")); n != 0 {
			t.Errorf("%d records are retained after they expired", n)
		}
	})
}

func TestMemorySweepIsDivided(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := history.NewMemory(history.MemoryConfig{})
		for i := range 20_000 {
			add(t, m, fmt.Sprint(i%3), 1, history.Keep{Age: time.Minute, Count: 1 << 20})
		}
		time.Sleep(time.Minute + 10*time.Millisecond)
		synctest.Wait()
		if _, _, filled, bytes := m.Size(); filled != 0 || bytes != 0 {
			t.Errorf("%d topics have records, %d bytes", filled, bytes)
		}
	})
}

func TestMemoryForgetsIDs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := history.NewMemory(history.MemoryConfig{})
		once := func() history.Position {
			r, err := m.Append(t.Context(), "t", history.Record{Event: "e", ID: "id"}, history.Keep{})
			if err != nil {
				t.Fatal(err)
			}
			return r.Position
		}
		first := once()
		time.Sleep(2 * time.Minute)
		if once() != first {
			t.Error("the ID was not recognised after 2 min")
		}
		time.Sleep(time.Millisecond) // the repetition did not renew it
		second := once()
		if second == first {
			t.Error("the ID was recognised after more than 2 min")
		}
		if once() != second {
			t.Error("the new record's ID was not recognised")
		}
	})
}

// TestMemoryAgainstModel compares a Memory with a simple model under random operations.
func TestMemoryAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) { runModel(t, seed) })
	}
}

// modelTopic is what the model knows of a topic: all records since it was forgotten, and how many
// of them are not retained any more.
type modelTopic struct {
	all     []history.Record
	at      []time.Time
	gone    int
	begin   history.Position
	foreign []history.Position // of before it was forgotten
}

func (m *modelTopic) trim(k history.Keep) {
	size := func() (n int) {
		for _, r := range m.all[m.gone:] {
			n += len(r.Payload.Bytes())
		}
		return n
	}
	for m.gone < len(m.all) && (len(m.all)-m.gone > k.Count || size() > k.Bytes || time.Since(m.at[m.gone]) >= k.Age) {
		m.gone++
	}
}

// position returns the i-th position: the beginning is 0.
func (m *modelTopic) position(i int) history.Position {
	if i == 0 {
		return m.begin
	}
	return m.all[i-1].Position
}

func runModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	log := history.NewMemory(history.MemoryConfig{})
	names := []string{"a", "b", "c"}
	model := map[string]*modelTopic{}
	k := history.Keep{Count: 1 + rnd.IntN(30), Bytes: 500 + rnd.IntN(5000), Age: time.Minute}
	for _, name := range names {
		log.Watch(name, nil)
		model[name] = &modelTopic{begin: top(t, log, name)}
	}
	for step := range 600 {
		name := names[rnd.IntN(len(names))]
		m := model[name]
		switch n := rnd.IntN(100); {
		case n < 50:
			body := rnd.IntN(300)
			r := add(t, log, name, body, k)
			if r.Prev != m.position(len(m.all)) || r.Position.Offset() != uint64(len(m.all)+1) {
				t.Fatalf("seed %d, step %d: %v follows %v", seed, step, r.Position, r.Prev)
			}
			m.all, m.at = append(m.all, r), append(m.at, time.Now())
		case n < 60:
			time.Sleep(time.Duration(rnd.IntN(20_000)) * time.Millisecond)
			synctest.Wait()
		case n < 61:
			if err := log.Forget(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			*m = modelTopic{begin: top(t, log, name), foreign: append(m.foreign, m.position(len(m.all)))}
		}
		m.trim(k)
		log.Size() // checks the heaps
		checkModel(t, fmt.Sprintf("seed %d, step %d", seed, step), log, name, m, rnd)
	}
}

func checkModel(t *testing.T, when string, log *history.Memory, name string, m *modelTopic, rnd *rand.Rand) {
	t.Helper()
	i, limit := rnd.IntN(len(m.all)+1), 1+rnd.IntN(40)
	at := m.position(i)
	want := m.all[max(i, m.gone):]
	b, err := log.Read(t.Context(), name, at, limit)
	switch {
	case i == len(m.all) || i >= m.gone:
		if err != nil || b.Top != m.position(len(m.all)) || b.After != at || b.More != (len(want) > limit) {
			t.Fatalf("%s: after %d of %d, %d gone: %v, %v", when, i, len(m.all), m.gone, b.More, err)
		}
		compare(t, when, b.Records, want[:min(limit, len(want))], m.position(i))
	case !errors.Is(err, history.ErrTrimmed):
		t.Fatalf("%s: after %d of %d, %d gone: %v", when, i, len(m.all), m.gone, err)
	}
	b, err = log.Before(t.Context(), name, at, limit)
	if i == 0 || i > m.gone {
		end := max(i-1, 0)
		from := max(m.gone, end-limit)
		from = min(from, end)
		if err != nil || b.After != m.position(from) || b.More != (i > 0 && from > m.gone) {
			t.Fatalf("%s: before %d of %d, %d gone: after %v, %v, %v", when, i, len(m.all), m.gone, b.After, b.More, err)
		}
		compare(t, when, b.Records, m.all[from:end], m.position(from))
	} else if !errors.Is(err, history.ErrTrimmed) {
		t.Fatalf("%s: before %d of %d, %d gone: %v", when, i, len(m.all), m.gone, err)
	}
	for _, p := range m.foreign {
		if _, err := log.Read(t.Context(), name, p, 1); !errors.Is(err, history.ErrEpoch) {
			t.Fatalf("%s: after a forgotten position: %v", when, err)
		}
	}
}

func compare(t *testing.T, when string, got, want []history.Record, prev history.Position) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %d records, want %d", when, len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Position != w.Position || g.Prev != prev || !g.Time.Equal(w.Time) ||
			len(g.Payload.Bytes()) != len(w.Payload.Bytes()) {
			t.Fatalf("%s: record %d is %+v, want %+v after %v", when, i, g, w, prev)
		}
		prev = g.Position
	}
}

func TestMemoryFullTopic(t *testing.T) {
	t.Parallel()
	m := history.NewMemory(history.MemoryConfig{})
	add(t, m, "t", 1, history.Keep{})
	m.SetOffset("t", 1<<53-2)
	if r := add(t, m, "t", 1, history.Keep{}); r.Position.Offset() != 1<<53-1 || len(r.Position.String()) != 8+1+16+1+4 {
		t.Errorf("got %v", r.Position)
	}
	if _, err := m.Append(t.Context(), "t", history.Record{Event: "e"}, history.Keep{}); !errors.Is(err, history.ErrFull) {
		t.Errorf("beyond the last offset: %v", err)
	}
}

// TestReadCopies checks that records that were read do not change, and keep nothing else in memory.
func TestReadCopies(t *testing.T) {
	t.Parallel()
	m := history.NewMemory(history.MemoryConfig{})
	raw := []byte(strings.Repeat("x", 100))
	r := history.Record{Event: "e", Payload: serializer.Binary(raw)}
	if _, err := m.Append(t.Context(), "t", r, history.Keep{}); err != nil {
		t.Fatal(err)
	}
	first := retained(t, m, "t")[0].Payload.Bytes()
	first[0] = '!'
	if second := retained(t, m, "t")[0].Payload.Bytes(); string(second) != string(raw) || cap(second) > 128 {
		t.Errorf("got %q with room for %d", second, cap(second))
	}
}
