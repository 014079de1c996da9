package natsengine_test

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/internal/testenv/listen"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

// testServer is a NATS server in this process.
type testServer struct {
	opts server.Options

	mu  sync.Mutex
	srv *server.Server
}

func newServer(t testing.TB, prepare ...func(*server.Options)) *testServer {
	e := &testServer{opts: server.Options{
		Host: "127.0.0.1", Port: listen.FreePort(t), MaxPending: 4 << 20, NoLog: true, NoSigs: true,
	}}
	for _, f := range prepare {
		f(&e.opts)
	}
	e.start(t)
	t.Cleanup(e.stop)
	return e
}

func (e *testServer) start(t testing.TB) {
	opts := e.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.SetLoggerV2(logger{t}, false, false, false)
	go srv.Start()
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server did not start")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv = srv
}

// logger reports why a server does not start.
type logger struct{ t testing.TB }

func (l logger) Fatalf(format string, v ...any) { l.t.Errorf("NATS server: "+format, v...) }
func (logger) Errorf(string, ...any)            {}
func (logger) Warnf(string, ...any)             {}
func (logger) Noticef(string, ...any)           {}
func (logger) Debugf(string, ...any)            {}
func (logger) Tracef(string, ...any)            {}

// server returns the running server. Each start makes a new one.
func (e *testServer) server() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.srv
}

func (e *testServer) stop() {
	e.server().Shutdown()
	e.server().WaitForShutdown()
}

func (e *testServer) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(e.opts.Port)) }

func newAdapter(t testing.TB, cfg natsengine.Config) pubsub.Adapter {
	t.Helper()
	e, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e.Adapter()
}

func TestSuite(t *testing.T) {
	suite(t, func(e *testServer) natsengine.Config { return natsengine.Config{URL: e.addr()} })
}

// suite runs the suite with adapters that config configures. Each test has its own server, whose
// options prepare may change.
func suite(t *testing.T, config func(e *testServer) natsengine.Config, prepare ...func(*server.Options)) {
	pubsubtest.Run(t, func(t *testing.T) pubsubtest.Engine {
		e := newServer(t, prepare...)
		return pubsubtest.Engine{
			New: func(t testing.TB) pubsub.Adapter {
				cfg := config(e)
				cfg.Queue = brokertest.Queue
				return newAdapter(t, cfg)
			},
			Stop:  func(testing.TB) { e.stop() },
			Start: e.start,
			Queue: brokertest.Queue,
		}
	})
}

func TestFaults(t *testing.T) { brokertest.Run(t, newFaulty) }

func newFaulty(t testing.TB) brokertest.Engine {
	e := newServer(t)
	return brokertest.Engine{
		Addr: e.addr(),
		New: func(t testing.TB, addr string, log *zerolog.Logger) pubsub.Adapter {
			return newAdapter(t, natsengine.Config{
				URL: addr, Queue: brokertest.Queue, Timeout: brokertest.Timeout, Ping: brokertest.Ping, Logger: log,
			})
		},
		Stop:          func(testing.TB) { e.stop() },
		Start:         e.start,
		SlowConsumers: func(testing.TB) int { return int(e.server().NumSlowConsumers()) },
		Publish: func(t testing.TB, topic string, data []byte) {
			nc := e.connect(t)
			defer nc.Close()
			if err := errors.Join(nc.Publish("bennu.t."+topic, data), nc.Flush()); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// connect returns a client that is not a node.
func (e *testServer) connect(t testing.TB) *nats.Conn {
	nc, err := nats.Connect(e.addr())
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func BenchmarkPubSub(b *testing.B) { brokertest.Benchmark(b, newFaulty) }
