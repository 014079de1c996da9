// Package natsengine joins the nodes of a cluster by NATS.
//
// Each node makes an [Engine] with [New] and passes its Adapter to pubsub.New. The engine has no
// connection until PubSub.Run is called. Run connects, and reconnects when the connection is lost.
// When Run has returned, everything that it started has ended, and the Engine needs no further
// cleanup. Programs call the PubSub, not the adapter.
//
// # Subjects and permissions
//
// Each topic and each node has a subject. A node subscribes to the subjects of topics that have
// subscribers on this node. With the prefix "bennu" the subjects are bennu.t.<topic>,
// bennu.n.<node> and bennu.a.all. In these names, letters, digits and a few other characters stand
// for themselves. Any other byte is written as a percent sign and two hex digits. Topics longer
// than 200 characters are hashed.
//
// A node only needs permission to publish and to subscribe to bennu.>, since it uses neither
// JetStream nor requests. In a server's configuration:
//
//	{ user: bennu, password: $SECRET, permissions: { publish: "bennu.>", subscribe: "bennu.>" } }
//
// # Trust
//
// Everyone who may use the prefix at NATS is trusted: they can read and forge every broadcast. Use
// TLS and a separate user wherever others can reach the network. The form of everything that a
// server sends is checked before the client library parses it. Malformed bytes end the connection,
// never the process. Errors, logs and Health contain no passwords or tokens.
//
// # Losses
//
// Core NATS delivers at most once. A node that lost its connection or did not keep up receives a
// gap. So do the other nodes if the node was sending when it lost the connection. If the servers
// announce that the routes between them have changed, every node reports a gap.
//
// Nodes also send each other small numbered probes, at least every 5 s in small clusters and at
// most about 20 each second in large ones. A missing probe is a gap. A node that receives probes
// from less than half of the other nodes reports that in Health, and connects to the next server.
// Configure several.
package natsengine

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/pubsub"
)

const defaultPrefix = "bennu"

// Config configures an Engine. The zero value uses a server on this machine.
type Config struct {
	// URL is the address of the servers, separated by commas. Empty means nats.DefaultURL, which is
	// nats://127.0.0.1:4222.
	URL string
	// Options are further options of the client: credentials, TLS, a dialer. Options for reconnecting,
	// buffers, pings, compression and handlers have no effect, because the engine sets them. A dialer
	// receives host names, not addresses.
	Options []nats.Option
	// Prefix begins the subjects. Empty means "bennu". All nodes of a cluster must use the same
	// prefix.
	Prefix string
	// Name begins the name of this node. Empty means "node".
	Name string
	// Queue limits the bytes that wait for NATS, and those that were received and wait for this node,
	// each. Zero means 8 MiB. A single broadcast must fit in it, and in the servers' max_payload.
	Queue int
	// Timeout limits how long the server may take to answer. Zero means 5 s.
	Timeout time.Duration
	// Ping is the longest time between two requests to the server. Zero means 5 s. A server that is
	// connected but does not answer is noticed within Ping plus Timeout.
	Ping time.Duration
	// Logger receives what an operator should know, but never payloads. Nil means warnings and errors
	// on standard error; zerolog.Nop is silent.
	Logger *zerolog.Logger
}

// Engine connects a node to NATS. It needs no cleanup: see the package documentation.
type Engine struct{ broker *broker.Broker }

// New returns an Engine. It does not connect. An error means that cfg is invalid.
func New(cfg Config) (*Engine, error) {
	prefix := cmp.Or(cfg.Prefix, defaultPrefix)
	if strings.ContainsAny(prefix, " \t\r\n*>") || strings.Contains("."+prefix+".", "..") {
		return nil, fmt.Errorf("natsengine: invalid subject prefix %q", prefix)
	}
	b := &backend{prefix: prefix, timeout: cmp.Or(cfg.Timeout, defaultTimeout)}
	if err := b.configure(cfg); err != nil {
		return nil, fmt.Errorf("natsengine: configure: %w", err)
	}
	return &Engine{broker.New(b, broker.Config{
		Package: "natsengine", Name: cfg.Name, Queue: cfg.Queue, Timeout: cfg.Timeout, Ping: cfg.Ping,
		Secrets: b.secrets, Logger: cfg.Logger,
	})}, nil
}

// Adapter returns the adapter for pubsub.New. Every call returns the same adapter. When the context
// of PubSub.Run ends, the adapter continues for up to a second to send what was published before.
func (e *Engine) Adapter() pubsub.Adapter { return e.broker }
