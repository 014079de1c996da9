package natsengine_test

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/will"
	"bennu.example/will/willtest"
)

// runWills returns the store of a node that runs until the test ends.
func runWills(t *testing.T, addr string, keep time.Duration) will.Store {
	t.Helper()
	return startWills(t, natsengine.Config{URL: addr}, keep)
}

func startWills(t *testing.T, cfg natsengine.Config, keep time.Duration) will.Store {
	t.Helper()
	cfg.Timeout, cfg.Ping = brokertest.Timeout, brokertest.Ping
	if cfg.Logger == nil {
		cfg.Logger = new(zerolog.Nop())
	}
	e, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.KeepWills(keep)
	return brokertest.StartWills(t, e)
}

func TestWills(t *testing.T) {
	server := newServer(t, withJetStream(t))
	var first, second *brokertest.Proxy
	willtest.Run(t, willtest.Config{
		New: func(t *testing.T, keep time.Duration) (a, b will.Store) {
			nc := server.connect(t)
			defer nc.Close()
			js, err := nc.JetStream()
			if err != nil {
				t.Fatal(err)
			}
			if err := js.DeleteStream("bennu-wills"); err != nil && !errors.Is(err, nats.ErrStreamNotFound) {
				t.Fatal(err)
			}
			first, second = brokertest.NewProxy(t, server.addr()), brokertest.NewProxy(t, server.addr())
			return runWills(t, first.Addr, keep), runWills(t, second.Addr, keep)
		},
		Reopen: func(t *testing.T) will.Store {
			server.stop()
			server.start(t)
			return runWills(t, server.addr(), will.Keep)
		},
		Faults: func(t *testing.T) (stop func()) {
			stall := func(p *brokertest.Proxy) func() {
				return func() {
					p.Stall()
					time.Sleep(250 * time.Millisecond) // longer than a claim
					p.Resume()
				}
			}
			return brokertest.Repeat(stall(first), stall(second), func() { first.Cut() }, func() {
				server.stop()
				server.start(t)
			})
		},
	})
}

// The permissions in the package documentation are sufficient for wills, and those of the adapter
// are not, which the log says.
func TestWillsPermissions(t *testing.T) {
	t.Parallel()
	publish, subscribe := documentedPermissions(t, "Last wills")
	ours := []string{"bennu.>"}
	e := newServer(t, withJetStream(t), func(o *server.Options) {
		o.Users = []*server.User{user("node", publish, append(ours, subscribe...)), user("adapter", ours, ours)}
	})
	cfg := func(name string) natsengine.Config {
		return natsengine.Config{URL: e.addr(), Options: []nats.Option{nats.UserInfo(name, "secret")}}
	}
	a, b := startWills(t, cfg("node"), will.Keep), startWills(t, cfg("node"), will.Keep)
	brokertest.CheckWills(t, a, b, func() {})

	var log brokertest.Log
	logger := zerolog.New(&log)
	refused := cfg("adapter")
	refused.Logger, refused.Timeout, refused.Ping = &logger, brokertest.Timeout, brokertest.Ping
	without, err := natsengine.New(refused)
	if err != nil {
		t.Fatal(err)
	}
	without.Wills()
	pubsubtest.Start(t, pubsub.New(without.Adapter()))
	brokertest.WaitUntil(t, "logged", func() bool {
		return strings.Contains(log.String(), "store of wills and Once unavailable")
	})
}

// user returns a user of a server with permissions.
func user(name string, publish, subscribe []string) *server.User {
	return &server.User{Username: name, Password: "secret", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
	}}
}

// documentedPermissions returns the subjects that a section of the package documentation names.
func documentedPermissions(t *testing.T, section string) (publish, subscribe []string) {
	t.Helper()
	doc, err := os.ReadFile("natsengine.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "// # "+section)
	_, text, _ = strings.Cut(text, "publish: [")
	text, rest, found := strings.Cut(text, "], subscribe: ")
	rest, _, _ = strings.Cut(rest, "\n")
	quoted := regexp.MustCompile(`"([^"]+)"`)
	for _, m := range quoted.FindAllStringSubmatch(text, -1) {
		publish = append(publish, m[1])
	}
	for _, m := range quoted.FindAllStringSubmatch(rest, -1) {
		subscribe = append(subscribe, m[1])
	}
	if !found || len(publish) < 2 || len(subscribe) == 0 {
		t.Fatalf("documented are %q and %q", publish, subscribe)
	}
	return publish, subscribe
}

func BenchmarkWills(b *testing.B) {
	server := newServer(b, withJetStream(b))
	brokertest.BenchmarkWills(b, func(b *testing.B) brokertest.WillEngine {
		e, err := natsengine.New(natsengine.Config{URL: server.addr(), Timeout: brokertest.Timeout, Ping: brokertest.Ping})
		if err != nil {
			b.Fatal(err)
		}
		return e
	})
}
