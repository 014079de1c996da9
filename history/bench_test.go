package history_test

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"bennu.example/history"
	"bennu.example/internal/cputime"
	"bennu.example/serializer"
)

const benchTopics = 1000

func benchNames() []string {
	names := make([]string, benchTopics)
	for i := range names {
		names[i] = fmt.Sprintf("room:%d", i)
	}
	return names
}

func benchRecord() history.Record {
	body := fmt.Sprintf(`{"body":"%0185d"}`, 7) // 196 bytes
	var p serializer.Payload
	_ = p.UnmarshalJSON([]byte(body))
	return history.Record{Event: "new_msg", Payload: p, Origin: "1234567"}
}

// BenchmarkMemoryAppend appends to full topics. The records of one topic are in the processor's
// cache; those of 1,000 topics, 64 MB, are not. The budget is 250 ns.
func BenchmarkMemoryAppend(b *testing.B) {
	for _, topics := range []int{1, benchTopics} {
		b.Run(fmt.Sprint(topics, " topics"), func(b *testing.B) {
			m, names, r := history.NewMemory(history.MemoryConfig{}), benchNames()[:topics], benchRecord()
			ctx := b.Context()
			for i := range 600 * topics { // every topic is full, and its chunks have their final size
				_, _ = m.Append(ctx, names[i%topics], r, history.Keep{})
			}
			b.ReportAllocs()
			i, used := 0, cputime.Used()
			for b.Loop() {
				if _, err := m.Append(ctx, names[i%topics], r, history.Keep{}); err != nil {
					b.Fatal(err)
				}
				i += 7
			}
			b.ReportMetric(float64(cputime.Used()-used)/float64(b.N), "cpu-ns/op") // does not grow on a busy machine
		})
	}
}

func BenchmarkMemoryRead(b *testing.B) {
	m, r := history.NewMemory(history.MemoryConfig{}), benchRecord()
	var at history.Position
	for i := range 256 {
		stored, err := m.Append(b.Context(), "t", r, history.Keep{})
		if err != nil {
			b.Fatal(err)
		}
		if i == 155 {
			at = stored.Position
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if batch, err := m.Read(b.Context(), "t", at, 100); err != nil || len(batch.Records) != 100 {
			b.Fatal(err)
		}
	}
}

func BenchmarkMemoryReadForged(b *testing.B) {
	m := history.NewMemory(history.MemoryConfig{})
	p := mustPosition(b, "forged", 5, "abcd")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = m.Read(b.Context(), "unknown", p, 1000)
	}
}

// TestMemoryPerRecord checks the budget of a retained record: its payload and 80 bytes. In a topic
// with few records the part of its unused room is larger.
func TestMemoryPerRecord(t *testing.T) {
	names, r := benchNames(), benchRecord()
	for per, beyond := range map[int]float64{256: 80, 30: 110} {
		before := heap()
		m := history.NewMemory(history.MemoryConfig{MaxBytes: 1 << 30})
		for range 2 * per {
			for _, name := range names {
				if _, err := m.Append(t.Context(), name, r, history.Keep{Count: per}); err != nil {
					t.Fatal(err)
				}
			}
		}
		size := float64(heap()-before) / float64(per*benchTopics)
		_, _, _, counted := m.Size()
		t.Logf("%d records in each topic: %.0f bytes for a payload of %d; the log counts %d",
			per, size, len(r.Payload.Bytes()), counted/(per*benchTopics))
		if most := float64(len(r.Payload.Bytes())) + beyond; size > most {
			t.Errorf("a record takes %.0f bytes, more than %.0f", size, most)
		}
		runtime.KeepAlive(m)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func TestMemoryAppendAllocations(t *testing.T) {
	m, r := history.NewMemory(history.MemoryConfig{}), benchRecord()
	for range 1000 {
		_, _ = m.Append(t.Context(), "t", r, history.Keep{})
	}
	// Chunks are allocated now and then, so that the average is below 1.
	if n := testing.AllocsPerRun(1000, func() { _, _ = m.Append(t.Context(), "t", r, history.Keep{}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestMemoryTopicSize checks that an append uses two cache lines of a topic. Objects of 256 bytes
// begin at a cache line.
func TestMemoryTopicSize(t *testing.T) {
	size, hot := history.TopicSizes()
	if unsafe.Sizeof(size) == 8 && (size <= 240 || size > 256 || hot > 128) {
		t.Errorf("a topic has %d bytes, of which an append uses %d", size, hot)
	}
}
