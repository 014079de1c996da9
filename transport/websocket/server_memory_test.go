package websocket_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

const (
	idleConnections = 1000
	// maxIdleBytes is the budget of an idle connection: heap and stacks of this package and net. A
	// connection without a goroutine takes 1.6 kB, and one with a goroutine 3.4 kB; the pools and
	// caches of many processors add some.
	maxIdleBytes          = 2650
	maxIdleBytesElsewhere = 4350
)

// TestWebSocketClients is not a test: TestWebSocketMemory starts it as the process of its clients.
func TestWebSocketClients(t *testing.T) {
	addr := os.Getenv("BENNU_TEST_CLIENTS_OF")
	if addr == "" {
		return // except in the child process
	}
	n, err := strconv.Atoi(os.Getenv("BENNU_TEST_CLIENTS"))
	if err != nil {
		t.Fatal(err)
	}
	var peers []*wsPeer
	for range n {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, handshake(t, nc, "/"))
	}
	in := bufio.NewScanner(os.Stdin)
	for os.Stderr.WriteString("done\n"); in.Scan(); os.Stderr.WriteString("done\n") {
		for _, p := range peers {
			if first, second, ok := strings.Cut(in.Text(), "|"); ok {
				p.send(opText, first)
				p.send(fin|opCont, second)
			} else {
				p.sendText(in.Text())
			}
		}
	}
}

// clients are connections of another process.
type clients struct {
	t    testing.TB
	in   io.WriteCloser
	done *bufio.Scanner
}

func startClients(t testing.TB, addr string, n int) *clients {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestWebSocketClients$")
	cmd.Env = append(os.Environ(), "BENNU_TEST_CLIENTS_OF="+addr, "BENNU_TEST_CLIENTS="+strconv.Itoa(n))
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
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	c := &clients{t, in, bufio.NewScanner(out)}
	c.wait()
	return c
}

func (c *clients) wait() {
	c.t.Helper()
	if !c.done.Scan() || c.done.Text() != "done" {
		c.t.Fatalf("the process of the clients printed %q", c.done.Text())
	}
}

// send makes each client send the same text, in fragments that are divided by "|".
func (c *clients) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, text+"\n"); err != nil {
		c.t.Fatal(err)
	}
	c.wait()
}

// inUse returns the heap and stacks in use after garbage collection. The second collection frees
// what finalizers and pools kept in the first, and the third what these referred to.
func inUse() (heap, stack uint64) {
	for range 3 {
		runtime.GC()
	}
	time.Sleep(10 * time.Millisecond) // goroutines may not have begun to wait yet
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse, m.StackInuse
}

// quietSession is a session without memory of its own.
type quietSession struct{ received, ended *atomic.Int32 }

func (s quietSession) Receive(serializer.Op, []byte) error {
	s.received.Add(1)
	return nil
}

func (s quietSession) Closed(error) { s.ended.Add(1) }

// TestWebSocketMemory checks the memory of an idle connection, whether it is new, has sent
// something, or receives something now and then. The server runs in a process of its own, because
// memory freed by other tests would be used first.
func TestWebSocketMemory(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestWebSocketMemoryOfServer$", "-test.v")
	cmd.Env = append(os.Environ(), "BENNU_TEST_SERVER=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestWebSocketMemoryOfServer is the process that TestWebSocketMemory starts.
func TestWebSocketMemoryOfServer(t *testing.T) {
	if os.Getenv("BENNU_TEST_SERVER") == "" {
		return
	}
	var received, ended atomic.Int32
	opened := make(chan transport.Conn, idleConnections)
	s := startWS(t, websocket.Config{}, wsPaths[0])
	open := func(c transport.Conn) transport.Session {
		opened <- c
		return &quietSession{&received, &ended}
	}
	s.open.Store(&open)
	warm := startClients(t, s.addr, 10) // for everything that is allocated once
	for range 10 {
		<-opened
	}
	warm.send("hello")
	eventually(t, "receiving", func() bool { return received.Load() == 10 })

	if n := websocket.WSConnSize; n > 208 {
		t.Errorf("%d bytes for our own struct: the next size is 224", n)
	}
	heap0, stack0 := inUse()
	all := startClients(t, s.addr, idleConnections)
	conns := make([]transport.Conn, 0, idleConnections)
	for range idleConnections {
		conns = append(conns, <-opened)
	}
	report := func(when string) {
		t.Helper()
		if websocket.HasPoller {
			eventually(t, "the end of reading", func() bool {
				return !slices.ContainsFunc(conns, func(c transport.Conn) bool { return !websocket.IsIdle(c) })
			})
		}
		heap, stack := inUse()
		h, st := (int(heap)-int(heap0))/idleConnections, (int(stack)-int(stack0))/idleConnections
		t.Logf("%s: %d bytes for each connection, heap %d and stack %d", when, h+st, h, st)
		budget := maxIdleBytesElsewhere
		if websocket.HasPoller {
			budget = maxIdleBytes
		}
		if h+st > budget && !raceEnabled {
			t.Errorf("the budget is %d", budget)
		}
	}
	report("just connected")
	all.send("heartbeat")
	eventually(t, "receiving", func() bool { return received.Load() == 10+idleConnections })
	report("after a message")
	all.send("in|fragments") // for which each connection needs a library
	eventually(t, "receiving", func() bool { return received.Load() == 10+2*idleConnections })
	report("after a message in fragments")
	frame := textFrame(strings.Repeat("b", 128))
	for range 16 {
		for _, c := range conns {
			if err := c.Send(frame, broadcast); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "writing", func() bool { return s.ws.Stats().Bytes >= 16*132*idleConnections })
	report("after a broadcast")
}
