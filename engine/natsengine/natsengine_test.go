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
	"bennu.example/internal/testenv/leak"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// engine is a NATS server in this process.
type engine struct {
	opts server.Options

	mu  sync.Mutex
	srv *server.Server // see server
}

func newEngine(t testing.TB, prepare ...func(*server.Options)) *engine {
	e := &engine{opts: server.Options{Host: "127.0.0.1", Port: brokertest.Port(t), MaxPending: 4 << 20, NoLog: true, NoSigs: true}}
	for _, f := range prepare {
		f(&e.opts)
	}
	e.start(t)
	t.Cleanup(e.stop)
	return e
}

func (e *engine) start(t testing.TB) {
	opts := e.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.SetLoggerV2(logger{t}, false, false, false)
	go srv.Start()
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv = srv
}

// logger tells what keeps a server from starting.
type logger struct{ t testing.TB }

func (l logger) Fatalf(format string, v ...any) { l.t.Errorf("NATS server: "+format, v...) }
func (logger) Errorf(string, ...any)            {}
func (logger) Warnf(string, ...any)             {}
func (logger) Noticef(string, ...any)           {}
func (logger) Debugf(string, ...any)            {}
func (logger) Tracef(string, ...any)            {}

// server is another one after each start.
func (e *engine) server() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.srv
}

func (e *engine) stop() {
	e.server().Shutdown()
	e.server().WaitForShutdown()
}

func (e *engine) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(e.opts.Port)) }

func newAdapter(t testing.TB, cfg natsengine.Config) *natsengine.Adapter {
	t.Helper()
	a, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSuite(t *testing.T) {
	suite(t, func(e *engine) natsengine.Config { return natsengine.Config{URL: e.addr()} })
}

// suite runs the suite with adapters configured by config; each test has its own server, of which prepare may change the options.
func suite(t *testing.T, config func(e *engine) natsengine.Config, prepare ...func(*server.Options)) {
	pubsubtest.Run(t, func(t *testing.T) pubsubtest.Engine {
		e := newEngine(t, prepare...)
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

func TestFaults(t *testing.T) { brokertest.Run(t, faulty) }

func faulty(t testing.TB) brokertest.Engine {
	e := newEngine(t)
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

// connect is a client that is no node.
func (e *engine) connect(t testing.TB) *nats.Conn {
	nc, err := nats.Connect(e.addr())
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func BenchmarkPubSub(b *testing.B) { brokertest.Benchmark(b, faulty) }
