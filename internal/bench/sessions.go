package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"bennu.example/internal/cputime"
	"bennu.example/internal/wstest"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// awaitTimeout bounds the wait for what all sessions receive.
const awaitTimeout = 5 * time.Minute

// broadcasts is how many broadcasts to all sessions are measured at each size.
const broadcasts = 5

// runSessions opens sessions of a server in this process, whose connections are in memory, and
// measures the memory of one and the cost of a broadcast to all of them. It does so at 1,000, at
// ten times as many, and so on up to most.
func runSessions(w io.Writer, most int) error {
	ps := pubsub.New(nil)
	all := &memoryConns{handler: bennuOn(ps), arrived: make(chan struct{}, 1)}
	defer all.close()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "sessions\tbytes per session (RSS)\tof the heap\t"+
		"broadcast to all: CPU ms\telapsed ms\tCPU µs per session\t")
	defer t.Flush()
	empty := memoryUse()
	for n := min(1000, most); ; n = min(10*n, most) {
		if need, free := n*all.estimate, availableMemory(); free > 0 && need-empty.rss > free*4/5 {
			t.Flush()
			fmt.Fprintf(w, "stopped before %d sessions: they need about %d MB, and %d MB are available\n", n, need>>20, free>>20)
			return nil
		}
		if err := all.grow(n); err != nil {
			return err
		}
		used := memoryUse()
		all.estimate = (used.rss - empty.rss) / n
		cpu, elapsed, err := all.broadcast(ps)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%.2f\t%.2f\t%.3f\t\n", n, all.estimate, (used.heap-empty.heap)/n,
			cpu.Seconds()*1e3, elapsed.Seconds()*1e3, cpu.Seconds()*1e6/float64(n))
		fmt.Fprintf(os.Stderr, "%d sessions: %d bytes for each\n", n, all.estimate) // the table comes last
		if n == most {
			return nil
		}
	}
}

// use is memory in use, in bytes.
type use struct{ rss, heap int }

func memoryUse() use {
	var m runtime.MemStats
	runtime.GC()
	freeMemory()
	runtime.ReadMemStats(&m)
	return use{currentState().RSS, int(m.HeapAlloc)}
}

// availableMemory returns how much memory the system has left, or 0 if it does not say.
func availableMemory() int {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			kB, _ := strconv.Atoi(f[1]) // zero if it is not a number
			return kB << 10
		}
	}
	return 0
}

// memoryConns are the connections of the sessions.
type memoryConns struct {
	handler  *socket.Handler
	conns    []*memoryConn
	serving  sync.WaitGroup
	estimate int          // bytes of a session
	sent     int64        // frames of broadcasts to all of them
	frames   atomic.Int64 // that all of them have received, one in each write
	other    atomic.Value // the last write that was no frame: a string
	arrived  chan struct{}
}

// grow opens connections until there are n, each with one channel.
func (a *memoryConns) grow(n int) error {
	join := wstest.AppendFrame(nil, wstest.Fin|wstest.Text, dialects["bennu"].join("all"))
	for len(a.conns) < n {
		c := &memoryConn{all: a, in: make(chan []byte, 1), closed: make(chan struct{})}
		a.conns = append(a.conns, c)
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/socket/websocket?vsn=2.0.0", nil)
		if err != nil {
			return err
		}
		r.Host = "memory"
		r.Header = http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
		}
		a.serving.Go(func() { a.handler.ServeHTTP(&memoryResponse{conn: c, header: http.Header{}}, r) })
		c.in <- join
		if len(a.conns)%1000 == 0 || len(a.conns) == n { // so that they do not all wait at once
			if err := a.await(int64(len(a.conns)) + a.sent); err != nil {
				return err
			}
		}
	}
	return nil
}

// await waits until all connections together have received that many frames since the first.
func (a *memoryConns) await(frames int64) error {
	timeout := time.After(awaitTimeout)
	for a.frames.Load() < frames {
		select {
		case <-a.arrived:
		case <-timeout:
			return fmt.Errorf("%d frames came, want %d; at last %q", a.frames.Load(), frames, a.other.Load())
		}
	}
	return nil
}

// broadcast returns the median cost of a broadcast to all.
func (a *memoryConns) broadcast(ps *pubsub.PubSub) (cpu, elapsed time.Duration, err error) {
	var cpus, times []time.Duration
	payload := map[string]string{"pad": strings.Repeat("x", 118)}
	for range broadcasts {
		want := a.frames.Load() + int64(len(a.conns))
		a.sent += int64(len(a.conns))
		used, begun := cputime.Used(), time.Now()
		if err := ps.Broadcast(context.Background(), "bench:all", "msg", payload); err != nil {
			return 0, 0, err
		}
		if err := a.await(want); err != nil {
			return 0, 0, err
		}
		cpus, times = append(cpus, cputime.Used()-used), append(times, time.Since(begun))
	}
	slices.Sort(cpus)
	slices.Sort(times)
	return cpus[broadcasts/2], times[broadcasts/2], nil
}

// close ends all sessions and waits for them.
func (a *memoryConns) close() {
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.serving.Wait()
	_ = a.handler.Shutdown(context.Background()) // without a deadline it does not fail
}

// memoryConn is the server's end of a connection in memory. It reads what is sent to in, and counts
// the frames that are written to it.
type memoryConn struct {
	all    *memoryConns
	in     chan []byte
	rest   []byte
	once   sync.Once
	closed chan struct{}
}

func (c *memoryConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		select {
		case c.rest = <-c.in:
		case <-c.closed:
			return 0, io.EOF
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *memoryConn) Write(p []byte) (int, error) {
	if p[0] == wstest.Fin|wstest.Text { // not the handshake
		c.all.frames.Add(1)
	} else {
		c.all.other.Store(string(p))
	}
	select {
	case c.all.arrived <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (c *memoryConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *memoryConn) LocalAddr() net.Addr              { return memoryAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr             { return memoryAddr{} }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// memoryResponse is the answer to a handshake, which gives up its connection.
type memoryResponse struct {
	conn   *memoryConn
	header http.Header
}

func (w *memoryResponse) Header() http.Header         { return w.header }
func (w *memoryResponse) WriteHeader(int)             {}
func (w *memoryResponse) Write(p []byte) (int, error) { return w.conn.Write(p) }

func (w *memoryResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReaderSize(w.conn, 16), bufio.NewWriterSize(w.conn, 16)), nil
}
