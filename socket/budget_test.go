package socket_test

import (
	"context"
	"encoding/json"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/cputime"
	"bennu.example/internal/wstest"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// maxIdleBytes is the budget of an idle connection with one joined channel: the server's heap and
// stacks.
const maxIdleBytes = 3350

// maxIdleBytesElsewhere is the same on other systems than Linux, where an idle connection has a
// goroutine.
const maxIdleBytesElsewhere = 5350

func inUse() (bytes uint64) {
	for range 3 { // pools and finalizers release memory one collection later
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func TestIdleMemory(t *testing.T) {
	if raceEnabled {
		return // the race detector's own memory would be measured
	}
	const n = 1000
	s := serve(t, socket.Config{})
	before, others := inUse(), runtime.NumGoroutine()
	s.crowd(t, n, 10)
	budget, maxGoroutines := uint64(maxIdleBytesElsewhere), n+50
	if runtime.GOOS == "linux" {
		budget, maxGoroutines = maxIdleBytes, 50
	}
	goroutines := runtime.NumGoroutine() - others
	for range 1000 {
		if goroutines <= maxGoroutines {
			break
		}
		time.Sleep(10 * time.Millisecond) // a connection is parked after a pause
		goroutines = runtime.NumGoroutine() - others
	}
	per := (inUse() - before) / n
	t.Logf("%d bytes per idle connection with one channel, %d goroutines for %d connections", per, goroutines, n)
	if per > budget {
		t.Errorf("%d bytes per idle connection, budget %d", per, budget)
	}
	if goroutines > maxGoroutines {
		t.Errorf("%d goroutines for %d idle connections", goroutines, n)
	}
}

// TestFanOutAllocations checks that a broadcast does not allocate for each subscriber.
func TestFanOutAllocations(t *testing.T) { fanOutAllocations(t) }

// TestFanOutAllocationsLatest checks the same if only the latest message of a key is kept.
func TestFanOutAllocationsLatest(t *testing.T) {
	fanOutAllocations(t, channel.Latest[nobody]("new_msg", func(m struct{ Body string }) string { return m.Body }))
}

func fanOutAllocations(t *testing.T, options ...channel.Option[nobody]) {
	if raceEnabled {
		return
	}
	const n, rounds = 1000, 50
	s := serve(t, socket.Config{Channels: channel.Routes{"room:*": echoes(options...)}})
	crowd := s.crowd(t, n, 1)
	body, err := serializer.Value(json.RawMessage(`{"body":"hello"}`)).Encoded()
	if err != nil {
		t.Fatal(err)
	}
	round := func() {
		if err := s.h.PubSub().Broadcast(context.Background(), "room:0", "new_msg", body); err != nil {
			t.Fatal(err)
		}
		crowd.receive(n)
	}
	for range 20 {
		round() // fill the pools
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		round()
	}
	runtime.ReadMemStats(&after)
	per := float64(after.Mallocs-before.Mallocs) / rounds
	t.Logf("%.0f allocations for a broadcast to %d subscribers, the test's own included", per, n)
	if per > n/10 {
		t.Errorf("%.0f allocations for a broadcast to %d subscribers", per, n)
	}
}

func BenchmarkEcho(b *testing.B) {
	s := serve(b, socket.Config{})
	c, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	must(c.Send([]byte(`["1","1","room:1","phx_join",{}]`)))
	_, err = c.Text()
	must(err)
	frame := []byte(`["1","2","room:1","echo",{"body":"` + strings.Repeat("x", 100) + `"}]`)
	b.ReportAllocs()
	for b.Loop() {
		must(c.Send(frame))
		_, err := c.Text()
		must(err)
	}
}

func BenchmarkJoinLeave(b *testing.B) {
	s := serve(b, socket.Config{JoinRate: -1})
	c, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.ReportAllocs()
	for b.Loop() {
		for _, f := range []string{`["1","1","room:1","phx_join",{}]`, `["1","2","room:1","phx_leave",{}]`} {
			if err := c.Send([]byte(f)); err != nil {
				b.Fatal(err)
			}
		}
		for range 3 {
			if _, err := c.Text(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkFanOut broadcasts to clients of another process and waits until all have received it. In
// flight is the number of broadcasts before the wait.
func BenchmarkFanOut(b *testing.B) {
	for _, shape := range []struct {
		name                    string
		clients, topics, flight int
	}{
		{"1000/in_flight=1", 1000, 1, 1},
		{"1000/in_flight=16", 1000, 1, 16},
		{"100x50/in_flight=4", 5000, 100, 4},
	} {
		b.Run(shape.name, func(b *testing.B) {
			s := serve(b, socket.Config{})
			crowd := s.crowd(b, shape.clients, shape.topics)
			body := serializer.Value(map[string]string{"body": strings.Repeat("x", 100)})
			per := shape.clients / shape.topics
			b.ReportAllocs()
			begun := cputime.Used()
			n := 0
			for b.Loop() {
				for i := range shape.flight {
					topic := "room:" + strconv.Itoa((n*shape.flight+i)%shape.topics)
					if err := s.h.PubSub().Broadcast(context.Background(), topic, "new_msg", body); err != nil {
						b.Fatal(err)
					}
				}
				crowd.receive(per * shape.flight)
				n++
			}
			messages := float64(n * shape.flight * per)
			b.ReportMetric(float64((cputime.Used()-begun)/time.Nanosecond)/messages/1000, "cpu-µs/message")
			b.ReportMetric(messages/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
