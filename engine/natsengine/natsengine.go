// Package natsengine joins the nodes of a cluster by NATS.
//
// Each node makes an [Adapter] by [New] and a PubSub of it, whose Run connects it, and again whenever the connection is lost. When Run has
// returned nothing of it is left; the adapter itself needs no closing. Programs call the PubSub, not the adapter.
//
// Each topic is a subject, as is each node, and a node is subscribed to those that it has subscribers for: with the prefix "bennu" to
// bennu.t.<topic>, bennu.n.<node> and bennu.a.all. In these names letters, digits and a few other characters stand for themselves, and any
// other byte as a percent sign and two hex digits. Topics longer than 200 characters are hashed. Who may connect needs permission to
// publish and subscribe to bennu.>, nothing else: there is no JetStream, and nothing is requested.
//
// In a server's configuration that is
//
//	{ user: bennu, password: $SECRET, permissions: { publish: "bennu.>", subscribe: "bennu.>" } }
//
// Who may use the prefix at NATS is trusted: it can read and forge every broadcast. Use TLS and a user of its own wherever the network is
// not yours alone. What a server sends is checked for its form before the client library parses it: malformed bytes end the
// connection, never the process. Errors, logs and Health show no password and no token.
//
// Core NATS delivers at most once. A node that lost its connection or did not keep up is told by a gap; so are the others if it was sending
// just then. When the servers tell that the routes between
// them have changed, that is a gap. Nodes also send each other small numbered probes, at least every five seconds in small clusters and at
// most about twenty each second in large ones. A missing probe is a gap; a node that hears less than half of the others says so in
// Health, and connects to the next server. Name several.
package natsengine

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/pubsub"
)

const defaultPrefix = "bennu"

// Config of an adapter. Its zero value is for a server on this machine.
type Config struct {
	// URL is where the servers are, separated by commas; "": nats.DefaultURL, 127.0.0.1:4222.
	URL string
	// Options are how to connect besides: credentials, TLS, a dialer. Those on reconnecting, buffers, pings, compression and handlers have no
	// effect: the adapter has its own. A dialer gets names, not addresses.
	Options []nats.Option
	// Prefix begins the subjects; "": "bennu". Nodes that are to hear each other have the same.
	Prefix string
	// Name begins this node's name in the cluster; "": "node".
	Name string
	// Queue bounds, in bytes, what waits for NATS, and as much again what came from it and waits for this node; 0: 8 MiB. A single broadcast
	// may not be longer, nor longer than the servers' max_payload.
	Queue int
	// Timeout is within which the server must answer; 0: 5 s. Ping is how long it is left alone before it is asked; 0: 5 s. A server that is
	// connected but deaf is noticed within the sum of both.
	Timeout, Ping time.Duration
	// Logger gets what an operator should know, never payloads; nil: nothing.
	Logger *zerolog.Logger
}

// Adapter is one node's place at NATS. See pubsub.Adapter.
type Adapter struct{ broker *broker.Relay }

var _ pubsub.Adapter = (*Adapter)(nil)

// New makes an adapter. It connects when it is run.
func New(cfg Config) (*Adapter, error) {
	prefix := cmp.Or(cfg.Prefix, defaultPrefix)
	if strings.ContainsAny(prefix, " \t\r\n*>") || strings.Contains("."+prefix+".", "..") {
		return nil, fmt.Errorf("natsengine: prefix %q is no subject", prefix)
	}
	e := &engine{prefix: prefix, timeout: cmp.Or(cfg.Timeout, defaultTimeout)}
	if err := e.configure(cfg); err != nil {
		return nil, fmt.Errorf("natsengine: configure: %w", err)
	}
	return &Adapter{broker.New(e, broker.Config{
		Name: cfg.Name, Queue: cfg.Queue, Timeout: cfg.Timeout, Ping: cfg.Ping, Secrets: e.secrets, Logger: cfg.Logger,
	})}, nil
}

// Node is part of pubsub.Adapter.
func (a *Adapter) Node() string { return a.broker.Node() }

// Run is part of pubsub.Adapter. When ctx ends it goes on for up to a second to send what was published before.
func (a *Adapter) Run(ctx context.Context, in pubsub.Inbox) error {
	err := a.broker.Run(ctx, broker.Inbox{
		Deliver: func(data []byte) error {
			b, err := pubsub.ParseBroadcast(data)
			if err == nil {
				in.Deliver(b)
			}
			return err
		},
		Gap: in.Gap,
	})
	if err != nil {
		return fmt.Errorf("natsengine: %w", err)
	}
	return nil
}

// Publish is part of pubsub.Adapter.
func (a *Adapter) Publish(_ context.Context, node string, b *pubsub.Broadcast) error {
	if err := a.broker.Publish(node, b.Topic, b, len(b.Topic)+len(b.Event)+len(b.Payload.Bytes())+16); err != nil {
		return fmt.Errorf("natsengine: publish %s to %s: %w", b.Event, b.Topic, err)
	}
	return nil
}

// Subscribe is part of pubsub.Adapter.
func (a *Adapter) Subscribe(topic string) { a.broker.Subscribe(topic) }

// Unsubscribe is part of pubsub.Adapter.
func (a *Adapter) Unsubscribe(topic string) { a.broker.Unsubscribe(topic) }

// Health is part of pubsub.Adapter.
func (a *Adapter) Health() pubsub.Health { return pubsub.Health(a.broker.Health()) }
