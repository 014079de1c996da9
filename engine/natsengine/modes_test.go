package natsengine_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/internal/testenv/listen"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// With TLS, the client reads through more layers.
func TestSecure(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	suite(t, func(e *testServer) natsengine.Config {
		return natsengine.Config{URL: "tls://" + e.addr(), Options: []nats.Option{nats.Secure(clientTLS)}}
	}, func(o *server.Options) { o.TLSConfig, o.TLSTimeout = serverTLS, 5 })
}

func TestWebSocket(t *testing.T) {
	suite(t, func(e *testServer) natsengine.Config {
		return natsengine.Config{URL: e.server().WebsocketURL(), Options: []nats.Option{nats.Compression(true)}}
	}, func(o *server.Options) {
		o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: listen.FreePort(t), NoTLS: true, Compression: true}
	})
}

func TestInProcess(t *testing.T) {
	suite(t, func(e *testServer) natsengine.Config {
		return natsengine.Config{Options: []nats.Option{nats.InProcessServer(e)}}
	})
}

// InProcessConn implements nats.InProcessConnProvider.
func (e *testServer) InProcessConn() (net.Conn, error) { return e.server().InProcessConn() }

func TestCustomDialer(t *testing.T) {
	e := newServer(t)
	waitReceived(t, natsengine.Config{URL: "nats://example.invalid:1", Options: []nats.Option{
		nats.SkipHostLookup(), nats.SetCustomDialer(dialer(e.addr())),
	}})
	broken := []nats.Option{nats.SetCustomDialer(dialer(""))}
	waitFailure(t, natsengine.Config{URL: e.addr(), Options: broken}, "no address")
}

// dialer dials its own address, whatever the requested address is.
type dialer string

func (d dialer) Dial(network, _ string) (net.Conn, error) {
	if d == "" {
		return nil, errors.New("no address")
	}
	return net.Dial(network, string(d))
}

// certificate makes a certificate for 127.0.0.1. It returns the configurations of a server that
// uses it and of clients that trust it.
func certificate(t *testing.T) (serverTLS, clientTLS *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	chain := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	serverTLS = &tls.Config{Certificates: []tls.Certificate{chain}, MinVersion: tls.VersionTLS13}
	return serverTLS, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]natsengine.Config{
		"a space":   {Prefix: "a b"},
		"wildcards": {Prefix: "a.>"},
		"dots":      {Prefix: "a..b"},
		"an end":    {Prefix: "a."},
		"an option": {Options: []nats.Option{func(*nats.Options) error { return errors.New("no") }}},
	} {
		if _, err := natsengine.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	a := newAdapter(t, natsengine.Config{Name: "web", Prefix: "my.app"})
	if !strings.HasPrefix(a.Node(), "web-") || a.Health().Connected {
		t.Errorf("%s: %+v", a.Node(), a.Health())
	}
	if err := a.Publish(t.Context(), "", &pubsub.Broadcast{Topic: "t", Payload: serializer.Value(1)}); err == nil {
		t.Error("published before Run")
	}
}

// run runs an adapter until the test ends. It returns the events that the adapter delivers.
func run(t *testing.T, cfg natsengine.Config) (pubsub.Adapter, <-chan string) {
	a := newAdapter(t, cfg)
	events := make(chan string, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- a.Run(ctx, pubsub.Inbox{Deliver: func(b *pubsub.Broadcast) { events <- b.Event }, Gap: func(error) {}})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return a, events
}

// withLog returns cfg with a log.
func withLog(cfg natsengine.Config, log *brokertest.Log) natsengine.Config {
	logger := zerolog.New(log)
	cfg.Logger = &logger
	return cfg
}

// runWithLog runs an adapter until the test ends, and counts its gaps.
func runWithLog(t *testing.T, cfg natsengine.Config, log *brokertest.Log) (a pubsub.Adapter, gaps func() int64) {
	a = newAdapter(t, withLog(cfg, log))
	var n atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- a.Run(ctx, pubsub.Inbox{Deliver: func(*pubsub.Broadcast) {}, Gap: func(error) { n.Add(1) }})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return a, n.Load
}

// waitReceived runs two adapters and waits until one receives a broadcast of the other.
func waitReceived(t *testing.T, cfg natsengine.Config) (a pubsub.Adapter) {
	t.Helper()
	a, _ = run(t, cfg)
	b, events := run(t, cfg)
	b.Subscribe("t")
	brokertest.WaitUntil(t, "received", func() bool {
		_ = a.Publish(t.Context(), "", &pubsub.Broadcast{Topic: "t", Event: "e"})
		return len(events) > 0
	})
	return a
}

// waitFailure waits until an adapter fails to connect for this reason.
func waitFailure(t *testing.T, cfg natsengine.Config, reason string) {
	t.Helper()
	a, _ := run(t, cfg)
	brokertest.WaitUntil(t, "failed with "+reason, func() bool {
		err := a.Health().Err
		return err != nil && strings.Contains(strings.ToLower(err.Error()), reason)
	})
	if h := a.Health(); !h.Since.IsZero() {
		t.Errorf("it was connected: %+v", h)
	}
}

// A user who may use only the prefix can do everything that a node does. A user without that
// permission receives the reason.
func TestPermissions(t *testing.T) {
	e := newServer(t, func(o *server.Options) {
		ours := &server.SubjectPermission{Allow: []string{"bennu.>"}}
		permissions := &server.Permissions{Publish: ours, Subscribe: ours}
		o.Users = []*server.User{{Username: "bennu", Password: "secret", Permissions: permissions}}
	})
	cfg := natsengine.Config{URL: e.addr(), Options: []nats.Option{nats.UserInfo("bennu", "secret")}}
	waitReceived(t, cfg)
	cfg.Prefix = "other"
	waitFailure(t, cfg, "permissions violation")
	waitFailure(t, natsengine.Config{URL: e.addr()}, "authorization")
}

// Publish refuses a broadcast that is too long for the server, and accepts one of nearly the
// largest size.
func TestMaxPayload(t *testing.T) {
	e := newServer(t, func(o *server.Options) { o.MaxPayload = 10_000 })
	a := waitReceived(t, natsengine.Config{URL: e.addr()})
	publish := func(size int) error {
		payload := serializer.Binary(make([]byte, size))
		return a.Publish(t.Context(), "", &pubsub.Broadcast{Topic: "t", Event: "e", Payload: payload})
	}
	if err := publish(9_900); err != nil {
		t.Error(err)
	}
	if err := publish(10_000); err == nil || a.Health().Dropped != 1 {
		t.Errorf("%v; health %+v", err, a.Health())
	}
	brokertest.WaitUntil(t, "sent", func() bool { return a.Health().Queued == 0 })
	if h := a.Health(); !h.Connected {
		t.Errorf("health %+v", h)
	}
}

// Every name becomes a valid token, and different names become different tokens.
func FuzzToken(f *testing.F) {
	f.Add("room:1", "room.1")
	f.Add("", "%")
	f.Add("%41", "A")
	f.Add(strings.Repeat("long", 50), strings.Repeat("long", 51))
	f.Add(strings.Repeat("ž", 100), strings.Repeat("ž", 101))
	f.Fuzz(func(t *testing.T, a, b string) {
		ta, tb := natsengine.Token(a), natsengine.Token(b)
		if (a == b) != (ta == tb) {
			t.Errorf("%q and %q are %s and %s", a, b, ta, tb)
		}
		invalid := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(".*>", r) }
		if ta == "" || len(ta) > 200 || strings.ContainsFunc(ta, invalid) {
			t.Errorf("%q is %q", a, ta)
		}
	})
}
