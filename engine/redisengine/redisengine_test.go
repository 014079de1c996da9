//go:build unix

package redisengine_test

import (
	"context"
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
	"bennu.example/internal/testenv/require"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// engine is a Redis server, a child process.
type engine struct {
	program string
	addr    string
	args    []string
	cmd     *exec.Cmd
}

// newEngine starts a server on a free port, with these arguments besides. It ends with the test.
func newEngine(t testing.TB, args ...string) *engine {
	addr, port := freePort(t)
	return startEngine(t, addr, append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"}, args...))
}

func startEngine(t testing.TB, addr string, args []string) *engine {
	e := &engine{program: require.Program(t, "redis-server", "valkey-server"), addr: addr, args: args}
	e.start(t)
	t.Cleanup(e.stop)
	return e
}

// freePort returns a port and its address.
func freePort(t testing.TB) (addr, port string) {
	port = strconv.Itoa(brokertest.Port(t))
	return net.JoinHostPort("127.0.0.1", port), port
}

func (e *engine) start(t testing.TB) {
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
			t.Fatal("the Redis server does not start: ", err)
		}
	}
}

// stop kills the server.
func (e *engine) stop() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

func (e *engine) signal(s syscall.Signal) func() { return func() { _ = e.cmd.Process.Signal(s) } }

// try sends a command.
func (e *engine) try(command ...string) (string, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{e.addr}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		return "", err
	}
	defer c.Close()
	answer, err := c.Do(context.Background(), c.B().Arbitrary(command...).Build()).ToAny()
	return fmt.Sprint(answer), err
}

// do sends a command that must not fail.
func (e *engine) do(t testing.TB, command ...string) string {
	t.Helper()
	answer, err := e.try(command...)
	if err != nil {
		t.Fatalf("%q: %v", command, err)
	}
	return answer
}

func newAdapter(t testing.TB, cfg redisengine.Config) *redisengine.Adapter {
	t.Helper()
	a, err := redisengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSuite(t *testing.T) {
	pubsubtest.Run(t, func(t *testing.T) pubsubtest.Engine {
		e := newEngine(t)
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

func TestFaults(t *testing.T) { brokertest.Run(t, faulty) }

func faulty(t testing.TB) brokertest.Engine {
	e := newEngine(t, "--client-output-buffer-limit", "pubsub 4mb 0 0")
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
			if strings.HasSuffix(e.do(t, "PUBSUB", "NUMSUB", "bennu:t:"+brokertest.Topic), "2]") { // there are two
				return 0
			}
			return 1
		},
		Publish: func(t testing.TB, topic string, data []byte) { e.do(t, "PUBLISH", "bennu:t:"+topic, string(data)) },
	}
}

func BenchmarkPubSub(b *testing.B) { brokertest.Benchmark(b, faulty) }
