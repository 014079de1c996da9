//go:build unix

package redisengine_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/listen"
	"bennu.example/internal/testenv/require"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

// parallel is how many tests run at the same time. They wait for servers and timeouts most of the
// time, so it is more than the two of a machine with two processors.
const parallel = "3"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", parallel); err != nil { // -parallel replaces it
		panic(err)
	}
	leak.Main(m, serveWills)
}

// testServer is a Redis server in a child process.
type testServer struct {
	program string
	addr    string
	args    []string
	cmd     *exec.Cmd
}

// newEngine starts a server on a free port, with additional arguments. It is stopped when the test
// ends.
func newServer(t testing.TB, args ...string) *testServer {
	addr, port := freePort(t)
	defaults := []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"}
	return startServer(t, addr, append(defaults, args...))
}

// newDurable starts a server that keeps everything when it is killed and started again.
func newDurable(t testing.TB) *testServer {
	return newServer(t, "--appendonly", "yes", "--appendfsync", "always", "--dir", t.TempDir())
}

func startServer(t testing.TB, addr string, args []string) *testServer {
	e := &testServer{program: require.Program(t, "redis-server", "valkey-server"), addr: addr, args: args}
	e.start(t)
	t.Cleanup(e.stop)
	return e
}

// freePort returns a port and its address.
func freePort(t testing.TB) (addr, port string) {
	port = strconv.Itoa(listen.FreePort(t))
	return net.JoinHostPort("127.0.0.1", port), port
}

func (e *testServer) start(t testing.TB) {
	e.cmd = exec.Command(e.program, e.args...)
	e.cmd.Dir = t.TempDir()
	e.cmd.Stderr = os.Stderr
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		if _, err := e.try("PING"); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal("the Redis server did not start: ", err)
		}
	}
}

// stop kills the server.
func (e *testServer) stop() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

func (e *testServer) signal(s syscall.Signal) func() { return func() { _ = e.cmd.Process.Signal(s) } }

// try sends a command and returns the answer.
func (e *testServer) try(command ...string) (string, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{e.addr}, ForceSingleClient: true, DisableCache: true,
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	answer, err := c.Do(context.Background(), c.B().Arbitrary(command...).Build()).ToAny()
	return fmt.Sprint(answer), err
}

// do sends a command that must not fail, and returns the answer.
func (e *testServer) do(t testing.TB, command ...string) string {
	t.Helper()
	answer, err := e.try(command...)
	if err != nil {
		t.Fatalf("%q: %v", command, err)
	}
	return answer
}

func newAdapter(t testing.TB, cfg redisengine.Config) pubsub.Adapter {
	t.Helper()
	e, err := redisengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e.Adapter()
}

func TestSuite(t *testing.T) {
	pubsubtest.Run(t, func(t *testing.T) pubsubtest.Engine {
		e := newServer(t)
		return pubsubtest.Engine{
			New: func(t testing.TB) pubsub.Adapter {
				return newAdapter(t, redisengine.Config{URL: "redis://" + e.addr, Queue: brokertest.Queue})
			},
			Stop:  func(testing.TB) { e.stop() },
			Start: e.start,
			Queue: brokertest.Queue,
		}
	})
}

func TestFaults(t *testing.T) { brokertest.Run(t, newFaulty) }

func newFaulty(t testing.TB) brokertest.Engine {
	e := newServer(t, "--client-output-buffer-limit", "pubsub 4mb 0 0")
	return brokertest.Engine{
		Addr: e.addr,
		New: func(t testing.TB, addr string, log *zerolog.Logger) pubsub.Adapter {
			return newAdapter(t, redisengine.Config{
				URL: "redis://" + addr, Queue: brokertest.Queue, Timeout: brokertest.Timeout, Ping: brokertest.Ping, Logger: log,
			})
		},
		Stop:   func(testing.TB) { e.stop() },
		Start:  e.start,
		Freeze: e.signal(syscall.SIGSTOP),
		Thaw:   e.signal(syscall.SIGCONT),
		SlowConsumers: func(t testing.TB) int {
			if strings.HasSuffix(e.do(t, "PUBSUB", "NUMSUB", "bennu:t:"+brokertest.Topic), "2]") { // both nodes are connected
				return 0
			}
			return 1
		},
		Publish: func(t testing.TB, topic string, data []byte) { e.do(t, "PUBLISH", "bennu:t:"+topic, string(data)) },
	}
}

func BenchmarkPubSub(b *testing.B) { brokertest.Benchmark(b, newFaulty) }
