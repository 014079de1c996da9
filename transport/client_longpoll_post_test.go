package transport_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// Checklist J227, J232 and wire.md 9.4: what is posted, and how.
func TestClientLPPosts(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i == 0 {
			time.Sleep(2 * time.Second)
		}
		return false
	}
	clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		c.Write(clientText(`["a"]`), clientBinary("\x00\x01"), clientBinary("\xff\xfe\xfd"), clientText(`["ü"]`))
		synctest.Wait()
		// While that one is unanswered all of these wait.
		var want []string
		for i := range 250 {
			line := fmt.Sprintf(`["%d"]`, i)
			want = append(want, line)
			c.Write(clientText(line))
		}
		c.Write(clientText(`{"v":1}`), clientText(`{"v":2}`), clientText("[\n]"), clientText(`["last"]`))
		time.Sleep(time.Second)
		if _, posts := s.counts(); posts != 1 {
			t.Fatalf("%d POSTs at once", posts)
		}
		time.Sleep(2 * time.Second)
		bodies := []string{
			"[\"a\"]\nAAE=\n//79\n[\"ü\"]",
			strings.Join(want[:100], "\n"), strings.Join(want[100:200], "\n"), strings.Join(want[200:], "\n"),
			`{"v":1}`, `{"v":2}`, "[\n]", `["last"]`,
		}
		got := s.posted()
		if len(got) != len(bodies) {
			t.Fatalf("%d POSTs, want %d: %q", len(got), len(bodies), got)
		}
		total := 0
		for i, want := range bodies {
			contentType := "application/x-ndjson"
			if i >= 4 && i <= 6 {
				contentType = "application/json"
			}
			if got[i] != want || s.request("POST", i).Header.Get("Content-Type") != contentType {
				t.Errorf("POST %d: %s %.200q, want %s %.200q", i, s.request("POST", i).Header.Get("Content-Type"), got[i], contentType, want)
			}
			total += len(want)
		}
		if _, out := c.Bytes(); out != uint64(total) {
			t.Errorf("%d bytes out, want %d", out, total)
		}
		if conns := n.conns.Load(); conns > 2 {
			t.Errorf("%d connections, want two that are kept", conns)
		}
	})
}

// Large lines do not make a body that a server would refuse.
func TestClientLPPostSize(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	clientLPTest(t, s, transport.ClientConfig{MaxQueue: 100 << 20}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		line := "[" + strings.Repeat("1", 100_000) + "]"
		huge := "[" + strings.Repeat("2", 3<<20) + "]"
		frames := []*serializer.Frame{clientText(huge)}
		for range 20 {
			frames = append(frames, clientText(line))
		}
		c.Write(append(frames, clientText(huge))...)
		synctest.Wait()
		lines := 0
		for i, body := range s.posted() {
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

// The backlog is bounded: Write waits for room, and not for ever.
func TestClientLPBacklog(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i < 3 {
			time.Sleep(3 * time.Second)
			return false
		}
		<-r.Context().Done()
		return true
	}
	clientLPTest(t, s, transport.ClientConfig{MaxQueue: 1000, WriteTimeout: 5 * time.Second}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		frame := clientText("[" + strings.Repeat("1", 900) + "]")
		clientWithin(t, 0, func() { c.Write(frame) })
		for range 3 {
			began := time.Now()
			if err := c.Write(frame); err != nil || time.Since(began) != 3*time.Second {
				t.Fatalf("Write: %v after %v", err, time.Since(began))
			}
		}
		clientWithin(t, 5*time.Second, func() {
			if err := c.Write(frame); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write: %v", err)
			}
		})
		clientWithin(t, 0, func() { clientWantsCode(t, c, 1005) })
	})
}

// A frame that is larger than the backlog goes through alone.
func TestClientLPBacklogOfOne(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	clientLPTest(t, s, transport.ClientConfig{MaxQueue: 1}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		for i := range 5 {
			if err := c.Write(clientText(fmt.Sprintf("[%d]", i))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := strings.Join(s.posted(), "|"); got != "[0]|[1]|[2]|[3]|[4]" {
			t.Errorf("posted %s", got)
		}
		if err := c.Write(); err != nil {
			t.Error(err)
		}
	})
}

// Everything at once, for the race detector.
func TestClientLPConcurrent(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		body := s.bodies[i]
		s.mu.Unlock()
		for line := range strings.SplitSeq(body, "\n") {
			s.out <- line
		}
		return false
	}
	n := newClientNet(t, s)
	c := clientDial(t, transport.DialLongPoll, transport.ClientConfig{HTTPClient: n.Client, MaxQueue: 500})
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := c.Write(clientText(fmt.Sprintf("[%d %d]", w, 2*i)), clientText(fmt.Sprintf("[%d %d]", w, 2*i+1))); err != nil {
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
