package socket_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/internal/cputime"
	"bennu.example/internal/wstest"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// returnMissed is how many records each client missed that returns.
const returnMissed = 100

// countedLog counts the reads of the log.
type countedLog struct {
	*history.Memory
	reads atomic.Int64
}

func (l *countedLog) Read(ctx context.Context, topic string, after history.Position, n int) (history.Batch, error) {
	l.reads.Add(1)
	return l.Memory.Read(ctx, topic, after, n)
}

func (l *countedLog) Before(ctx context.Context, topic string, p history.Position, n int) (history.Batch, error) {
	l.reads.Add(1)
	return l.Memory.Before(ctx, topic, p, n)
}

// missedTopics starts a server whose topics room:0, room:1, … have returnMissed records after the
// positions that it returns. No topic is in use, as after the restart of all connections.
func missedTopics(t testing.TB, topics int) (*server, *countedLog, []string) {
	t.Helper()
	log := &countedLog{Memory: history.NewMemory(history.MemoryConfig{})}
	ps := pubsub.NewRecorded(nil, log, history.Rules{"room:*": {}})
	since := make([]string, topics)
	for i := range topics {
		for n := range returnMissed + 1 {
			pos, err := ps.Append(t.Context(), fmt.Sprint("room:", i), "new_msg",
				map[string]any{"n": n, "body": strings.Repeat("x", 100)})
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				since[i] = pos.String()
			}
		}
	}
	return serve(t, socket.Config{PubSub: ps}), log, since
}

// returning are clients that are connected and have not joined yet.
type returning []*wstest.Conn

func dialReturning(addr string, size int) (returning, error) {
	all := make(returning, size)
	for i := range all {
		var err error
		if all[i], err = wstest.Dial(addr, "/socket/websocket?vsn=2.0.0"); err != nil {
			return nil, fmt.Errorf("client %d: %w", i, err)
		}
	}
	return all, nil
}

func (all returning) close() {
	for _, c := range all {
		if c != nil {
			_ = c.Close() // the server may have closed it
		}
	}
}

// join joins all clients at once. It returns the times from the sending of the first join to the
// last record of each client, sorted.
func (all returning) join(since []string, receive func(*wstest.Conn) error) ([]time.Duration, error) {
	took, errs := make([]time.Duration, len(all)), make([]error, len(all))
	var clients sync.WaitGroup
	start := time.Now()
	for i, c := range all {
		clients.Go(func() {
			topic := i % len(since)
			errs[i] = c.Send(fmt.Appendf(nil, `["1","1","room:%d","phx_join",{"$history":{"since":%q}}]`, topic, since[topic]))
			if errs[i] == nil {
				errs[i] = receive(c)
			}
			took[i] = time.Since(start)
		})
	}
	clients.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("client %d: %w", i, err)
		}
	}
	slices.Sort(took)
	return took, nil
}

// checkReturn receives what follows a join, and checks it: the reply, and the records 1, 2, ….
func checkReturn(c *wstest.Conn) error {
	want := `"recovered":true,"missed":` + strconv.Itoa(returnMissed)
	for n := range returnMissed + 1 {
		if n > 0 {
			want = `,"n":` + strconv.Itoa(n) + "}"
		}
		frame, err := c.Text()
		if err != nil {
			return err
		}
		if !strings.Contains(string(frame), want) {
			return fmt.Errorf("frame %d is %s, want %s in it", n, frame, want)
		}
	}
	return nil
}

// awaitReturn receives until the last record, without the time that it takes to look at frames.
func awaitReturn(c *wstest.Conn) error {
	last := fmt.Appendf(nil, `,"n":%d}]`, returnMissed)
	buf := make([]byte, 4096)
	for n := 0; ; {
		got, err := c.Conn.Read(buf[n:])
		if err != nil {
			return err
		}
		n += got
		if bytes.HasSuffix(buf[:n], last) {
			return nil
		}
		n = copy(buf, buf[max(0, n-len(last)):n])
	}
}

// TestReturnReadsTheLogOnce checks that clients that return at the same time share one reading of
// their topic's log.
func TestReturnReadsTheLogOnce(t *testing.T) {
	const clients, topics = 200, 4
	s, log, since := missedTopics(t, topics)
	all, err := dialReturning(strings.TrimPrefix(s.url, "http://"), clients)
	defer all.close()
	if err == nil {
		_, err = all.join(since, checkReturn)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := log.reads.Load(); n != topics {
		t.Errorf("%d clients read the log %d times, want once for each of %d topics", clients, n, topics)
	}
	// The reply and the records are one write. It is counted after the client has received it.
	writes := func() uint64 { return s.h.Stats().WebSocket.Writes }
	for deadline := time.Now().Add(patience); writes() < clients && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if n := writes(); n != clients {
		t.Errorf("%d writes for %d clients, want one for each", n, clients)
	}
}

// TestReturning is the process in which the clients of BenchmarkReturn run. It tests nothing.
func TestReturning(t *testing.T) {
	addr := os.Getenv("BENNU_RETURN_TO")
	if addr == "" {
		return // in all other processes
	}
	size, _ := strconv.Atoi(os.Getenv("BENNU_RETURN_SIZE"))
	all, err := dialReturning(addr, size)
	defer all.close()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(os.Stderr, "connected")
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	begun := cputime.Used()
	took, err := all.join(strings.Split(os.Getenv("BENNU_RETURN_SINCE"), ","), awaitReturn)
	if err != nil {
		t.Fatal(err)
	}
	at := func(percent int) int64 { return took[(len(took)-1)*percent/100].Microseconds() }
	fmt.Fprintln(os.Stderr, at(50), at(99), at(100), (cputime.Used() - begun).Microseconds())
	in.Scan()
}

// BenchmarkReturn lets clients of another process return after a restart of all connections: they
// are connected, and join at once. It reports the times from the first join until a client has its
// last record, and the processor time of both processes. The clients take their share of the same
// processors.
func BenchmarkReturn(b *testing.B) {
	for _, shape := range []struct{ clients, topics int }{{10_000, 100}, {1000, 1}} {
		b.Run(fmt.Sprintf("%dx%d/topics=%d", shape.clients, returnMissed, shape.topics), func(b *testing.B) {
			total := make([]int64, 4)
			var used time.Duration
			var reads int64
			for b.Loop() {
				b.StopTimer()
				s, log, since := missedTopics(b, shape.topics)
				c := s.returning(b, shape.clients, since)
				runtime.GC() // of what connecting has left behind
				b.StartTimer()
				begun := cputime.Used()
				fmt.Fprintln(c.in, "join")
				for i, field := range strings.Fields(c.line()) {
					n, err := strconv.ParseInt(field, 10, 64)
					if err != nil || i >= len(total) {
						b.Fatalf("the clients printed %q", c.out.Text())
					}
					total[i] += n
				}
				used += cputime.Used() - begun
				b.StopTimer()
				reads += log.reads.Load()
				c.stop()
				b.StartTimer()
			}
			n := float64(b.N)
			for i, unit := range []string{"p50-ms", "p99-ms", "max-ms", "client-cpu-ms"} {
				b.ReportMetric(float64(total[i])/1000/n, unit)
			}
			b.ReportMetric(float64(used.Milliseconds())/n, "server-cpu-ms")
			b.ReportMetric(float64(reads)/n/float64(shape.topics), "reads/topic")
		})
	}
}

// returners are the process of TestReturning.
type returners struct {
	*crowd
	cmd *exec.Cmd
}

// returning starts a process with connected clients.
func (s *server) returning(t testing.TB, size int, since []string) *returners {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestReturning$")
	cmd.Env = append(os.Environ(), "BENNU_RETURN_TO="+strings.TrimPrefix(s.url, "http://"),
		"BENNU_RETURN_SIZE="+strconv.Itoa(size), "BENNU_RETURN_SINCE="+strings.Join(since, ","))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &returners{&crowd{t: t, in: in, out: bufio.NewScanner(out)}, cmd}
	t.Cleanup(c.stop)
	c.line()
	return c
}

// line returns the next line that the clients print.
func (c *returners) line() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatal("the clients ended")
	}
	return c.out.Text()
}

// stop ends the clients. Further calls do nothing.
func (c *returners) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}
