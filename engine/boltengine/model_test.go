package boltengine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/history"
	"bennu.example/serializer"
)

// pair is the position of one record, or of one beginning, in both logs.
type pair struct{ memory, file history.Position }

// Random operations have the same results as in a history.Memory, which has tests of its own, also
// if the engine is restarted between them.
func TestSameAsMemory(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { sameAsMemory(t, rand.New(rand.NewPCG(uint64(seed), 1))) })
		})
	}
}

func sameAsMemory(t *testing.T, random *rand.Rand) {
	cfg := config(t)
	cfg.NoSync = true
	e := open(t, cfg)
	file := e.History()
	stop := run(t, e, history.Inbox{Record: func(string, history.Record) {}, Forgotten: func(string) {}})
	memory := history.NewMemory(history.MemoryConfig{})
	topics := []string{"a", "b", "c"}
	ages := map[string]time.Duration{"a": time.Minute, "b": 10 * time.Minute, "c": time.Hour}
	known := map[string][]pair{}
	begin := func(topic string) {
		m, err := memory.Tops(t.Context(), []string{topic})
		if err != nil {
			t.Fatal(err)
		}
		known[topic] = append(known[topic], pair{m[0], topOf(t, file, topic)})
	}
	for _, topic := range topics {
		memory.Watch(topic, func(error) {}) // so that Forget of another topic does not change its epoch
		begin(topic)
	}
	keeps := []history.Keep{
		{Count: 5, Bytes: 10_000}, {Count: 50, Bytes: 400}, {Count: 30, Bytes: 5000}, {Count: 1, Bytes: 100},
	}
	for range 300 {
		topic := topics[random.IntN(len(topics))]
		switch op := random.IntN(100); {
		case op < 60:
			r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, random.IntN(120)))}
			if random.IntN(3) == 0 {
				r.ID = fmt.Sprint(random.IntN(4))
			}
			k := keeps[random.IntN(len(keeps))]
			k.Age = ages[topic]
			m, memoryErr := memory.Append(t.Context(), topic, r, k)
			f, fileErr := file.Append(t.Context(), topic, r, k)
			if !errors.Is(fileErr, memoryErr) {
				t.Fatalf("append: %v, want %v", fileErr, memoryErr)
			}
			if fileErr == nil {
				sameRecord(t, f, m)
				known[topic] = append(known[topic], pair{m.Position, f.Position})
			}
		case op < 85:
			all := known[topic]
			p := all[random.IntN(len(all))]
			limit := 1 + random.IntN(60)
			m, memoryErr := memory.Read(t.Context(), topic, p.memory, limit)
			f, fileErr := file.Read(t.Context(), topic, p.file, limit)
			same(t, "Read", f, m, fileErr, memoryErr)
			if random.IntN(4) == 0 {
				p = pair{}
			}
			m, memoryErr = memory.Before(t.Context(), topic, p.memory, limit)
			f, fileErr = file.Before(t.Context(), topic, p.file, limit)
			same(t, "Before", f, m, fileErr, memoryErr)
		case op < 94:
			time.Sleep(time.Duration(random.IntN(120)) * time.Second)
		case op < 97:
			if err := errors.Join(memory.Forget(t.Context(), topic), file.Forget(t.Context(), topic)); err != nil {
				t.Fatal(err)
			}
			begin(topic)
		default:
			stop()
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = open(t, cfg)
			file = e.History()
			stop = run(t, e, history.Inbox{})
		}
	}
}

func same(t *testing.T, what string, file, memory history.Batch, fileErr, memoryErr error) {
	t.Helper()
	if !errors.Is(fileErr, memoryErr) || memoryErr == nil && fileErr != nil {
		t.Fatalf("%s: %v, want %v", what, fileErr, memoryErr)
	}
	if len(file.Records) != len(memory.Records) || file.More != memory.More ||
		file.Top.Offset() != memory.Top.Offset() || file.After.Offset() != memory.After.Offset() {
		t.Fatalf("%s: got %d records after %v up to %v, more: %v; want %d after %v up to %v, more: %v", what,
			len(file.Records), file.After, file.Top, file.More, len(memory.Records), memory.After, memory.Top, memory.More)
	}
	for i := range file.Records {
		sameRecord(t, file.Records[i], memory.Records[i])
	}
}

func sameRecord(t *testing.T, file, memory history.Record) {
	t.Helper()
	if file.Position.Offset() != memory.Position.Offset() || file.Prev.Offset() != memory.Prev.Offset() ||
		file.Prev.IsBeginning() != memory.Prev.IsBeginning() || file.ID != memory.ID ||
		len(file.Payload.Bytes()) != len(memory.Payload.Bytes()) || !file.Time.Equal(memory.Time) {
		t.Fatalf("got %+v, want %+v", file, memory)
	}
}
