package longpoll_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// Frames that wait for a request are posted together: at most 100 lines, and a frame that cannot be
// a line alone.
func TestClientPosts(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	s.Post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i == 0 {
			time.Sleep(2 * time.Second)
		}
		return false
	}
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		go c.Write(
			transporttest.Text(`["a"]`), transporttest.Binary("\x00\x01"),
			transporttest.Binary("\xff\xfe\xfd"), transporttest.Text(`["ü"]`),
		)
		synctest.Wait()
		// These wait until the first POST is answered.
		var want []string
		var frames []*serializer.Frame
		for i := range 250 {
			line := fmt.Sprintf(`["%d"]`, i)
			want = append(want, line)
			frames = append(frames, transporttest.Text(line))
		}
		for _, text := range []string{`{"v":1}`, `{"v":2}`, "[\n]", `["last"]`} {
			frames = append(frames, transporttest.Text(text))
		}
		go c.Write(frames...)
		time.Sleep(time.Second)
		if _, posts := s.Counts(); posts != 1 {
			t.Fatalf("%d POSTs at once", posts)
		}
		time.Sleep(2 * time.Second)
		bodies := []string{
			"[\"a\"]\nAAE=\n//79\n[\"ü\"]",
			strings.Join(want[:100], "\n"), strings.Join(want[100:200], "\n"), strings.Join(want[200:], "\n"),
			`{"v":1}`, `{"v":2}`, "[\n]", `["last"]`,
		}
		got := s.Posted()
		if len(got) != len(bodies) {
			t.Fatalf("%d POSTs, want %d: %q", len(got), len(bodies), got)
		}
		total := 0
		for i, want := range bodies {
			contentType := "application/x-ndjson"
			if i >= 4 && i <= 6 {
				contentType = "application/json"
			}
			if ct := s.Request("POST", i).Header.Get("Content-Type"); got[i] != want || ct != contentType {
				t.Errorf("POST %d: %s %.200q, want %s %.200q", i, ct, got[i], contentType, want)
			}
			total += len(want)
		}
		if _, out := c.Bytes(); out != uint64(total) {
			t.Errorf("%d bytes out, want %d", out, total)
		}
		if conns := n.Conns.Load(); conns > 2 {
			t.Errorf("%d connections, want two that are kept", conns)
		}
	})
}

// Large lines do not add up to a body that a server would refuse.
func TestClientBoundsPosts(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		line := "[" + strings.Repeat("1", 100_000) + "]"
		huge := "[" + strings.Repeat("2", 3<<20) + "]"
		frames := []*serializer.Frame{transporttest.Text(huge)}
		for range 20 {
			frames = append(frames, transporttest.Text(line))
		}
		c.Write(append(frames, transporttest.Text(huge))...)
		synctest.Wait()
		lines := 0
		for i, body := range s.Posted() {
			if len(body) > 512<<10 && body != huge {
				t.Errorf("POST %d has %d bytes", i, len(body))
			}
			lines += strings.Count(body, "\n") + 1
		}
		if lines != 22 {
			t.Errorf("%d lines, want 22", lines)
		}
	})
}

// Write returns when its frames were posted, however long that takes. Each POST has a timeout of
// its own.
func TestClientWriteWaits(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	s.Post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i < 5 {
			time.Sleep(12 * time.Second)
			return false
		}
		<-r.Context().Done()
		return true
	}
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		began := time.Now()
		waits := make(chan error)
		go func() {
			time.Sleep(time.Second)
			waits <- c.Write(transporttest.Text("[4]"))
		}()
		var v1 []*serializer.Frame
		for i := range 4 {
			v1 = append(v1, transporttest.Text(fmt.Sprintf("{%d}", i)))
		}
		if err := c.Write(v1...); err != nil || time.Since(began) != 48*time.Second {
			t.Fatalf("Write: %v after %v", err, time.Since(began))
		}
		if err := <-waits; err != nil || time.Since(began) != time.Minute {
			t.Fatalf("second Write: %v after %v", err, time.Since(began))
		}
		go func() { waits <- c.Write(transporttest.Text("[5]")) }()
		go func() { waits <- c.Write(transporttest.Text("[6]")) }()
		transporttest.Within(t, 30*time.Second, func() {
			for range 2 {
				if err := <-waits; !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Write: %v", err)
				}
			}
		})
		transporttest.Within(t, 0, func() { transporttest.WantsCode(t, c, 1005) })
		if got := strings.Join(s.Posted(), "|"); got != "{0}|{1}|{2}|{3}|[4]|[5]" && got != "{0}|{1}|{2}|{3}|[4]|[6]" {
			t.Errorf("posted %s", got)
		}
	})
}

// Batch returns how many frames fit into one request or system call. A POST takes 100 lines, 512
// KiB, or one frame that cannot be a line.
func TestClientBatch(t *testing.T) {
	t.Parallel()
	repeat := func(n int, f *serializer.Frame) []*serializer.Frame {
		list := make([]*serializer.Frame, n)
		for i := range list {
			list[i] = f
		}
		return list
	}
	large := transporttest.Text("[" + strings.Repeat("1", 100_000) + "]")
	for _, tt := range []struct {
		name   string
		frames []*serializer.Frame
		ws, lp int
	}{
		{"none", nil, 0, 0},
		{"one", repeat(1, transporttest.Text("[]")), 1, 1},
		{"small", repeat(5000, transporttest.Text(`["1","2","t","e",{}]`)), 1927, 100},
		{"objects of 1.0.0", repeat(3, transporttest.Text("{}")), 3, 1},
		{"lines before an object", append(repeat(7, transporttest.Text("[]")), transporttest.Text("{}")), 8, 7},
		{"lines before one that is two", append(repeat(7, transporttest.Text("[]")), transporttest.Text("[\n]")), 8, 7},
		{"binary", repeat(9, transporttest.Binary(strings.Repeat("x", 60_000))), 1, 6},
		{"large", repeat(9, large), 1, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := transporttest.NewNet(t, transporttest.Endpoint())
			cfg := transport.ClientConfig{HTTPClient: n.Client}
			if got := transporttest.Dial(t, websocket.Dial, cfg).Batch(tt.frames); got != tt.ws {
				t.Errorf("WebSocket: %d, want %d", got, tt.ws)
			}
			if got := transporttest.Dial(t, longpoll.Dial, cfg).Batch(tt.frames); got != tt.lp {
				t.Errorf("long poll: %d, want %d", got, tt.lp)
			}
		})
	}
}

// Concurrent calls, for the race detector.
func TestClientConcurrent(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	s.Post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		body := s.Posted()[i]
		for line := range strings.SplitSeq(body, "\n") {
			s.Out <- line
		}
		return false
	}
	n := transporttest.NewNet(t, s)
	c := transporttest.Dial(t, longpoll.Dial, transport.ClientConfig{HTTPClient: n.Client})
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				frame := func(i int) *serializer.Frame { return transporttest.Text(fmt.Sprintf("[%d %d]", w, i)) }
				if err := c.Write(frame(2*i), frame(2*i+1)); err != nil {
					t.Error(err)
					return
				}
				c.Bytes()
			}
		})
	}
	var next [writers]int
	for range 2 * writers * each {
		_, data, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		var w, i int
		fmt.Sscanf(string(data), "[%d %d]", &w, &i)
		if i != next[w] {
			t.Fatalf("writer %d: got %d, want %d", w, i, next[w])
		}
		next[w]++
	}
	wg.Wait()
}
