//go:build unix

package natsengine_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/listen"
	"bennu.example/will"
)

func TestMain(m *testing.M) { leak.Main(m, serveChild) }

// serveChild is the main function of the processes that tests start.
func serveChild() {
	if os.Args[2] == brokertest.WillRole {
		brokertest.ServeWills(func(url string, logger *zerolog.Logger) (*natsengine.Engine, error) {
			return natsengine.New(natsengine.Config{
				URL: url, Timeout: brokertest.Timeout, Ping: brokertest.Ping, Logger: logger,
				Replicas: 1 + strings.Count(url, ","), // all servers
			})
		})
		return
	}
	serveNATS()
}

// serveNATS is the main function of a process with a NATS server.
func serveNATS() {
	flags := flag.NewFlagSet("", flag.ExitOnError)
	_ = flags.String("role", "", "")
	port := flags.Int("port", 0, "")
	dir := flags.String("dir", "", "")
	routes := flags.String("routes", "", "")
	_ = flags.Parse(os.Args[1:]) // an error exits
	opts := &server.Options{
		Host: "127.0.0.1", Port: *port, JetStream: true, StoreDir: *dir, NoLog: true, ServerName: fmt.Sprint("server", *port),
	}
	if *routes != "" { // the first one is the server's own
		opts.Routes = server.RoutesFromStr(*routes)
		opts.Cluster = server.ClusterOpts{Name: "bennu", Host: "127.0.0.1"}
		opts.Cluster.Port, _ = strconv.Atoi(opts.Routes[0].Port())
		opts.Routes = opts.Routes[1:]
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv.Start()
	srv.WaitForShutdown()
}

// childServer is a NATS server in another process, so that it can be killed and frozen.
type childServer struct {
	port   int
	dir    string
	routes string
	cmd    *exec.Cmd
	exited chan struct{}
}

func newChild(t testing.TB) *childServer { return newChildWith(t, "") }

// newChildWith starts a server of a cluster, whose route comes first.
func newChildWith(t testing.TB, routes string) *childServer {
	c := &childServer{port: listen.FreePort(t), dir: t.TempDir(), routes: routes}
	c.start(t)
	t.Cleanup(func() { c.signal(t, syscall.SIGCONT); c.kill(t) })
	return c
}

func (c *childServer) addr() string { return fmt.Sprint("127.0.0.1:", c.port) }

func (c *childServer) start(t testing.TB) {
	t.Helper()
	c.cmd = exec.Command(os.Args[0], "-role", "nats", "-port", strconv.Itoa(c.port), "-dir", c.dir,
		"-routes", c.routes)
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	c.exited = exited
	go func() {
		defer close(exited)
		_ = c.cmd.Wait() // it was killed
	}()
	listen.Await(t, c.addr(), 30*time.Second, exited)
}

func (c *childServer) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Error(err)
	}
}

// kill ends the process as kill -9 does.
func (c *childServer) kill(t testing.TB) {
	t.Helper()
	c.signal(t, syscall.SIGKILL)
	<-c.exited
}

// Nodes are killed while clients set wills, come back and leave, and so is the server.
func TestWillsOfKilledNodes(t *testing.T) {
	t.Parallel()
	brokertest.RunWills(t, func(t *testing.T) brokertest.WillCluster {
		srv := newChild(t)
		return brokertest.WillCluster{URL: srv.addr(), Restart: func() { srv.kill(t); srv.start(t) }}
	})
}

// Three servers have the wills, and the one that leads their stream is killed, as nodes are while
// clients set wills, come back and leave. All nodes lose their leases while a leader is elected.
func TestWillsOfKilledNodesInCluster(t *testing.T) {
	if os.Getenv("NIGHTLY") != "true" {
		t.Skip("SKIPPED: it takes 45 s for each seed; set NIGHTLY=true to run it")
	}
	t.Parallel()
	brokertest.RunWills(t, func(t *testing.T) brokertest.WillCluster {
		servers, all := newChildren(t)
		return brokertest.WillCluster{
			URL: all, Restart: func() { killLeader(t, servers, all) }, Faults: 20 * time.Second,
		}
	})
}

// killLeader kills the server that leads the stream of the wills, and starts it again when another
// one leads.
func killLeader(t *testing.T, servers map[string]*childServer, all string) {
	t.Helper()
	led := ""
	brokertest.WaitUntil(t, "led", func() bool {
		led = leader(all, "bennu-wills")
		return led != ""
	})
	servers[led].kill(t)
	brokertest.WaitUntil(t, "replaced", func() bool {
		now := leader(all, "bennu-wills")
		return now != "" && now != led
	})
	servers[led].start(t)
}

// Three servers have the wills, and the one that leads their stream is killed.
func TestWillsInCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 15 s, since the servers wait for each other")
	}
	t.Parallel()
	servers, all := newChildren(t)
	cfg := natsengine.Config{URL: all, Replicas: 3}
	a, b := startWills(t, cfg, will.Keep), startWills(t, cfg, will.Keep)
	brokertest.CheckWills(t, a, b, func() { killLeader(t, servers, all) })
}
