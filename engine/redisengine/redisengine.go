// Package redisengine joins the nodes of a cluster by Redis 6 or newer, or what speaks its protocol RESP3 as well, such as Valkey.
//
// Each node makes an [Adapter] by [New] and a PubSub of it, whose Run connects it, and again whenever the connection is lost. When Run has
// returned nothing of it is left; the adapter itself needs no closing. Programs call the PubSub, not the adapter.
//
// Each topic is a channel, as is each node, and a node is subscribed to those that it has subscribers for: with the prefix "bennu" to
// bennu:t:<topic>, bennu:n:<node> and bennu:a:all. Nothing is stored. A user for nodes alone needs
//
//	ACL SETUSER bennu on >secret resetchannels &bennu:* -@all +hello +ping +publish +subscribe +unsubscribe +role
//
// ROLE is optional. A user at a Sentinel needs +hello and +sentinel|get-master-addr-by-name, nothing else.
//
// # Trust
//
// Who may use the prefix at Redis is trusted: it can read and forge every broadcast. Use TLS (rediss) and a user of its own wherever the
// network is not yours alone. What Redis sends is checked for its form before the client library parses it: malformed bytes end the
// connection, never the process. Errors, logs and Health show no password.
//
// # Failover
//
// A replica takes every PUBLISH, but its primary and the nodes there never get it. So a node asks for the role when it connects and then
// every Ping. A node that is on a replica says so in Health, and connects anew: to the primary that the replica names, if the user may
// ask for it by ROLE and it can be reached, and otherwise to the next configured address. With Sentinels, a node asks them before each
// connection. Name several, since only those are asked:
//
//	redis://bennu:secret@sentinel-1:26379?addr=sentinel-2:26379&addr=sentinel-3:26379&master_set=mymaster
//
// Nodes also send each other small numbered probes, at least every five seconds in small clusters and at most about twenty each second
// in large ones. These find connections to different primaries, and subscriptions that are deaf for whatever cause. What may have been
// missed is announced by a gap, also to nodes that start during a failover.
//
// Redis delivers at most once. A node that lost its connection or did not keep up (client-output-buffer-limit pubsub) is told by a gap; so
// are the others if it was sending just then. What nodes of a Redis Cluster lose on the way to each other is noticed if a probe is lost, too.
//
// # Why rueidis
//
// With RESP3 it lets one connection publish, subscribe and ping, all in one pipeline whose answers come in order: so subscriptions reach Redis
// before what is published after them, and there is one thing that can be lost, of which it tells. Messages come on its reading goroutine,
// in order, whatever their channels. go-redis keeps subscriptions on a connection of their own, on which it reconnects and subscribes again
// by itself without telling what may have been missed meanwhile, and it sends a PUBLISH again whose answer was lost, so that broadcasts
// could come twice.
//
// # Why no sharded channels
//
// SSUBSCRIBE and SPUBLISH spread the channels of a Redis Cluster over its nodes, each to be connected to on its own. Broadcasts of one node to
// several topics would have no order any more. Plain channels work in a Redis Cluster through any of its nodes.
package redisengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/pubsub"
)

const (
	defaultPrefix  = "bennu"
	defaultURL     = "redis://127.0.0.1:6379"
	defaultTimeout = 5 * time.Second
)

// Config of an adapter. Its zero value is for a server on this machine.
type Config struct {
	// URL is where Redis is, as rueidis.ParseURL reads it. Empty means redis://127.0.0.1:6379. With the parameter master_set its
	// addresses are those of Sentinels, which need no password then. Errors never show a URL, since it may contain a password.
	URL string
	// Options are for who needs more than a URL says, which must be "" then: Sentinel, TLS, a dialer. Of several addresses, which are nodes of one
	// Redis Cluster, they are tried in turn. Options on retrying, pipelines, caching and the lifetime of connections have no effect.
	Options rueidis.ClientOption
	// Prefix begins the channels; "": "bennu". Nodes that are to hear each other have the same. None may be another one's beginning.
	Prefix string
	// Name begins this node's name in the cluster; "": "node".
	Name string
	// Queue bounds, in bytes, what waits for Redis, and as much again what came from it and waits for this node; 0: 8 MiB. A single broadcast may
	// not be longer.
	Queue int
	// Timeout is within which the server must answer; 0: 5 s. Ping is how long it is left alone before it is asked; 0: 5 s. A server that is
	// connected but deaf is noticed within the sum of both.
	Timeout, Ping time.Duration
	// Logger gets what an operator should know, never payloads; nil: nothing.
	Logger *zerolog.Logger
}

// Adapter is one node's place at Redis. See pubsub.Adapter.
type Adapter struct{ broker *broker.Relay }

var _ pubsub.Adapter = (*Adapter)(nil)

// New makes an adapter. It connects when it is run.
func New(cfg Config) (*Adapter, error) {
	opts := cfg.Options
	var secrets []string
	if len(opts.InitAddress) == 0 || cfg.URL != "" {
		var err error
		if len(opts.InitAddress) > 0 {
			err = errors.New("both a URL and addresses")
		} else {
			opts, secrets, err = parseURL(cmp.Or(cfg.URL, defaultURL))
		}
		if err != nil {
			return nil, fmt.Errorf("redisengine: configure: %w", err)
		}
	}
	if opts.AlwaysRESP2 {
		return nil, errors.New("redisengine: configure: RESP2 cannot subscribe and publish on one connection")
	}
	e := newEngine(cmp.Or(cfg.Prefix, defaultPrefix), cmp.Or(cfg.Timeout, defaultTimeout), cfg.Queue, opts)
	return &Adapter{broker.New(e, broker.Config{
		Name: cfg.Name, Queue: cfg.Queue, Timeout: cfg.Timeout, Ping: cfg.Ping, Echo: true, Logger: cfg.Logger,
		Secrets: append(secrets, opts.Password, opts.Sentinel.Password),
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
		return fmt.Errorf("redisengine: %w", err)
	}
	return nil
}

// Publish is part of pubsub.Adapter.
func (a *Adapter) Publish(_ context.Context, node string, b *pubsub.Broadcast) error {
	if err := a.broker.Publish(node, b.Topic, b, len(b.Topic)+len(b.Event)+len(b.Payload.Bytes())+16); err != nil {
		return fmt.Errorf("redisengine: publish %s to %s: %w", b.Event, b.Topic, err)
	}
	return nil
}

// Subscribe is part of pubsub.Adapter.
func (a *Adapter) Subscribe(topic string) { a.broker.Subscribe(topic) }

// Unsubscribe is part of pubsub.Adapter.
func (a *Adapter) Unsubscribe(topic string) { a.broker.Unsubscribe(topic) }

// Health is part of pubsub.Adapter.
func (a *Adapter) Health() pubsub.Health { return pubsub.Health(a.broker.Health()) }
