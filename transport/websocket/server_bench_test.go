//go:build unix

package websocket_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"bennu.example/internal/cputime"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// TestWebSocketLoad is not a test: the benchmarks start it as the process of their clients. The
// environment has their number and what they do. They either read, and notify the parent of each
// round that all have read, or answer each message with another.
func TestWebSocketLoad(t *testing.T) {
	addr := os.Getenv("BENNU_TEST_LOAD_ON")
	if addr == "" {
		return // except in the child process
	}
	n, _ := strconv.Atoi(os.Getenv("BENNU_TEST_CLIENTS"))
	round, _ := strconv.Atoi(os.Getenv("BENNU_TEST_ROUND")) // bytes that each client receives in a round; zero means echo
	var got atomic.Int64
	out := bufio.NewWriter(os.Stderr)
	done := make(chan int64, 1000)
	answer := maskedFrame(fin|opText, string(echoFrame.Data))
	for range n {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		p := handshake(t, nc, "/")
		go func() {
			b := make([]byte, 16<<10)
			for {
				k, err := nc.Read(b)
				if err != nil {
					return
				}
				if round == 0 { // one echo for each frame of the server
					nc.Write(answer)
					continue
				}
				now := got.Add(int64(k))
				if rounds := now/int64(round) - (now-int64(k))/int64(round); rounds > 0 {
					done <- rounds
				}
			}
		}()
		_ = p
	}
	go io.Copy(io.Discard, os.Stdin) // the parent
	fmt.Fprintln(os.Stderr, "done")
	for rounds := range done {
		out.Write(binary.BigEndian.AppendUint64(nil, uint64(rounds)))
		out.Flush()
	}
}

// load is the clients of a benchmark.
type load struct {
	b   *testing.B
	out *bufio.Reader
}

func startLoad(b *testing.B, addr string, n, round int) *load {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestWebSocketLoad$")
	cmd.Env = append(os.Environ(), "BENNU_TEST_LOAD_ON="+addr, fmt.Sprint("BENNU_TEST_CLIENTS=", n),
		fmt.Sprint("BENNU_TEST_ROUND=", round))
	out, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	l := &load{b, bufio.NewReader(out)}
	if line, err := l.out.ReadString('\n'); line != "done\n" {
		b.Fatalf("the process of the clients printed %q, %v", line, err)
	}
	return l
}

// rounds waits until all clients have read everything of some more rounds.
func (l *load) rounds() int {
	l.b.Helper()
	var n [8]byte
	if _, err := io.ReadFull(l.out, n[:]); err != nil {
		l.b.Fatal(err)
	}
	return int(binary.BigEndian.Uint64(n[:]))
}

// BenchmarkWebSocketFanOut sends one frame of 128 bytes to 1,000 clients of another process. It
// reports the server's processor time for each delivered message, and how much is written in one
// system call.
func BenchmarkWebSocketFanOut(b *testing.B) {
	const n, payload = 1000, 128
	for _, window := range []int{1, 16} {
		b.Run(fmt.Sprintf("inflight=%d", window), func(b *testing.B) {
			s := startWS(b, websocket.Config{}, wsPaths[0])
			conns := make(chan transport.Conn, n)
			var received, ended atomic.Int32
			open := func(c transport.Conn) transport.Session {
				conns <- c
				return quietSession{&received, &ended}
			}
			s.open.Store(&open)
			frame := textFrame(strings.Repeat("f", payload))
			l := startLoad(b, s.addr, n, n*(payload+4))
			all := make([]transport.Conn, n)
			for i := range all {
				all[i] = <-conns
			}
			b.ReportAllocs()
			b.ResetTimer()
			before, cpuBefore := s.ws.Stats(), cputime.Used()
			sent, got := 0, 0
			for got < b.N {
				for ; sent < b.N && sent < got+window; sent++ {
					for _, c := range all {
						if err := c.Send(frame, broadcast); err != nil {
							b.Fatal(err)
						}
					}
				}
				got += l.rounds()
			}
			b.StopTimer()
			used := cputime.Used() - cpuBefore
			after := s.ws.Stats()
			messages := float64(b.N) * n
			b.ReportMetric(float64(used.Nanoseconds())/1000/messages, "cpu-µs/msg")
			b.ReportMetric(messages/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64(after.Bytes-before.Bytes)/float64(after.Writes-before.Writes), "B/write")
		})
	}
}

// BenchmarkWebSocketEcho measures messages that clients of another process send and receive back.
// It reports for how long the garbage collector stopped the process, and for how long goroutines
// waited for a processor: the 99th percentile.
func BenchmarkWebSocketEcho(b *testing.B) {
	for _, n := range []int{1, 200, 500} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) {
			s := startWS(b, websocket.Config{}, wsPaths[0])
			var left atomic.Int64
			done := make(chan struct{})
			opened := make(chan transport.Conn, n)
			open := func(c transport.Conn) transport.Session {
				opened <- c
				return &echoSession{c, &left, done}
			}
			s.open.Store(&open)
			startLoad(b, s.addr, n, 0)
			var all []transport.Conn
			for range n {
				all = append(all, <-opened)
			}
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			before := readTimes()
			cpuBefore := cputime.Used()
			for _, c := range all {
				c.Send(echoFrame, transport.Delivery{})
			}
			<-done
			b.StopTimer()
			after := readTimes()
			b.ReportMetric(1e6*percentile(before[0], after[0], 0.99), "gc-pause-µs")
			b.ReportMetric(1e6*percentile(before[1], after[1], 0.99), "sched-µs")
			b.ReportMetric(float64((cputime.Used()-cpuBefore).Nanoseconds())/1000/float64(b.N), "cpu-µs/msg")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// readTimes returns histograms of the runtime, in seconds: of the garbage collector's pauses, and
// of how long goroutines that could run did not.
func readTimes() (h [2]metrics.Float64Histogram) {
	samples := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}, {Name: "/sched/latencies:seconds"}}
	metrics.Read(samples)
	for i, s := range samples {
		h[i] = *s.Value.Float64Histogram()
	}
	return h
}

// percentile returns the p-th quantile of what was added to a histogram.
func percentile(before, after metrics.Float64Histogram, p float64) float64 {
	var total, sum uint64
	for i, n := range after.Counts {
		total += n - before.Counts[i]
	}
	for i, n := range after.Counts {
		if sum += n - before.Counts[i]; sum > 0 && float64(sum) >= p*float64(total) {
			return after.Buckets[i]
		}
	}
	return 0
}

var echoFrame = &serializer.Frame{Op: serializer.OpText, Data: []byte(strings.Repeat("e", 128))}

type echoSession struct {
	transport.Conn
	left *atomic.Int64
	done chan struct{}
}

func (s *echoSession) Receive(op serializer.Op, data []byte) error {
	switch left := s.left.Add(-1); {
	case left == 0:
		close(s.done)
	case left > 0:
		return s.Send(&serializer.Frame{Op: op, Data: data}, transport.Delivery{})
	}
	return nil
}

func (s *echoSession) Closed(error) {}
