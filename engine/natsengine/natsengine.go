// Package natsengine joins the nodes of a cluster by NATS, and keeps the history of topics and
// shared objects in JetStream.
//
// Each node makes an [Engine] with [New] and passes its Adapter to pubsub.New, or its Adapter and
// its History to pubsub.NewRecorded. The engine has no connection until PubSub.Run is called. Run
// connects, and reconnects when the connection is lost. When Run has returned, everything that it
// started has ended, and the Engine needs no further cleanup. Programs call the PubSub, not the
// adapter.
//
// # Subjects and permissions
//
// Each topic and each node has a subject. A node subscribes to the subjects of topics that have
// subscribers on this node. With the prefix "bennu" the subjects are bennu.t.<topic>,
// bennu.n.<node> and bennu.a.all. In these names, letters, digits and a few other characters stand
// for themselves. Any other byte is written as a percent sign and two hex digits. Topics longer
// than 200 characters are hashed.
//
// The adapter only needs permission to publish and to subscribe to bennu.>, since it uses neither
// JetStream nor requests. In a server's configuration:
//
//	{ user: bennu, password: $SECRET, permissions: { publish: "bennu.>", subscribe: "bennu.>" } }
//
// The history also needs permission to publish to some subjects of JetStream:
//
//	publish: ["bennu.>", "$JS.API.STREAM.INFO.bennu", "$JS.API.STREAM.CREATE.bennu",
//	  "$JS.API.STREAM.UPDATE.bennu", "$JS.API.STREAM.MSG.GET.bennu", "$JS.API.DIRECT.GET.bennu"]
//
// # History
//
// The history of all topics is one stream, whose name is the prefix; characters that a name cannot
// have are replaced. It needs nats-server 2.11 or newer. The first node creates the stream. All
// nodes correct its configuration, but keep what the log does not depend on, such as the placement.
// A rule that needs a larger Count or Age extends the stream when it is first used; nothing makes
// it smaller. To start afresh, delete the stream: all positions then belong to another log.
//
// A nil error of Append means that the stream has confirmed the record: the server, or most of
// [Config].Replicas servers, have it in a file. Files are synced as the server is configured, by
// default every two minutes, so a power failure of these servers loses what came last. Set
// sync_interval to always to exclude that. Such a loss is noticed: clients are told that their
// position cannot be continued.
//
// The stream keeps more than the rules say: the newest records of a topic for 24 h or ten times the
// largest Age, so that a client can continue after a longer silence. Readers receive what Count and
// Age allow. Keep.Bytes only limits a single record; use [Config].MaxBytes to limit the whole.
// Forget removes a topic's records and leaves a small marker. Old positions are then trimmed. Do
// not purge single topics or change the limits of the stream with the tools of NATS.
//
// The log has a connection of its own. So an event that is not recorded may reach another node
// after a later one that is. The log's connection reports a gap if it is lost, if the stream has a
// new leader, or if the servers of the cluster change.
//
// # Last wills
//
// [Engine.Wills] keeps the last wills of clients in the stream bennu-wills, which has the newest
// message of each of the subjects bennu.w.>. The first node creates it, with Config.Replicas. Each
// change of it is a compare-and-swap. The times are those of the servers, as the node estimates
// them from the timestamps of messages; the clocks of the servers must not differ by more than a
// second. Each node keeps an index of the stream in memory, about 300 bytes for each client that
// has joined within 24 h. The wills need the adapter, and these permissions:
//
//	publish: ["bennu.>", "$JS.API.STREAM.INFO.bennu-wills", "$JS.API.STREAM.CREATE.bennu-wills",
//	  "$JS.API.STREAM.MSG.GET.bennu-wills", "$JS.API.CONSUMER.CREATE.bennu-wills.>",
//	  "$JS.API.CONSUMER.DELETE.bennu-wills.>", "$JS.FC.bennu-wills.>"], subscribe: "_INBOX.>"
//
// # Once
//
// [Engine.Once] keeps the pushes that channel.Once has seen in the stream bennu-once, which has the
// newest message of each of the subjects bennu.q.>. A client and topic has at most 1,000 ids and
// about 4 MiB of replies, unless the newest 16 have more. The messages expire by themselves. Each
// node keeps an index of the stream in at most 64 MiB of memory: 200 bytes for each id, and 400 for
// each client and topic. Beyond it the node forgets the clients and topics that changed longest
// ago. Their pushes are still handled once, but they may have more than 1,000 ids and 4 MiB of
// replies. While the servers do not answer, a push with an id is not handled: its reply has the
// reason "unavailable". Once needs the permissions of the wills, and these:
//
//	publish: ["$JS.API.STREAM.INFO.bennu-once", "$JS.API.STREAM.CREATE.bennu-once",
//	  "$JS.API.STREAM.MSG.GET.bennu-once", "$JS.API.CONSUMER.CREATE.bennu-once.>",
//	  "$JS.API.CONSUMER.DELETE.bennu-once.>", "$JS.FC.bennu-once.>"], subscribe: "_INBOX.>"
//
// # Shared objects
//
// [Engine.State] keeps the objects of package state in the stream bennu-objects, which the first
// node creates with Config.Replicas. Each object has a subject, bennu.o.<object>, whose messages
// are its writes. A node keeps copies of the objects that it used last, up to 64 MiB, and of those
// that are in use. Each write is a compare-and-swap, and each read first compares the copy with the
// stream, so all nodes may write the same object. If the messages of an object become longer than
// twice the object, a snapshot in messages of 128 KiB replaces them. A write must fit in the
// servers' max_payload. If the stream is full, writes fail, and nothing is removed.
//
// Objects and items expire by the time of the servers, as the node estimates it. A node deletes
// what expires of the objects that it uses or watches, and about two minutes later what expires of
// others: until then the names of these objects are in bennu.d.>.
//
// The rules for files and replicas of the history apply to objects, too: the position of a client
// that has received a write that was lost cannot be continued. Objects need these permissions:
//
//	publish: ["bennu.>", "$JS.API.STREAM.INFO.bennu-objects", "$JS.API.STREAM.CREATE.bennu-objects",
//	  "$JS.API.STREAM.UPDATE.bennu-objects", "$JS.API.STREAM.PURGE.bennu-objects",
//	  "$JS.API.STREAM.MSG.GET.bennu-objects",
//	  "$JS.API.DIRECT.GET.bennu-objects"], subscribe: "bennu.>"
//
// # Embedded server
//
// Package bennu.example/engine/natsengine/embedded runs a NATS server in the process.
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
	"bennu.example/history"
	"bennu.example/logging"
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
	// each. It does not limit appends to the history. Zero means 8 MiB. A single broadcast must fit in
	// it, and in the servers' max_payload.
	Queue int
	// Timeout limits how long the server may take to answer. Zero means 5 s.
	Timeout time.Duration
	// Ping is the longest time between two requests to the server. Zero means 5 s. A server that is
	// connected but does not answer is noticed within Ping plus Timeout.
	Ping time.Duration
	// Replicas is the number of servers that keep the history, wills and objects: 1, 3 or 5. Nothing
	// is lost as long as most of them keep their data. Zero means 1 for a new stream; an existing one
	// is not changed.
	Replicas int
	// MaxBytes limits the size of the history of all topics. Beyond it, the oldest records are
	// removed. Zero means no limit for a new stream; an existing one is not changed.
	MaxBytes int64
	// MaxObjects bounds the number of shared objects. A node that knows of so many creates no further
	// ones: its state.Store returns state.ErrQuota. Nodes count every 10 s if they create objects, so
	// there may be a few more. An object that was removed may count for another minute, and for ten
	// minutes if the removal had an ID. Zero means no bound but the limits of JetStream.
	MaxObjects int
	// Logger receives what an operator should know, but never payloads. Nil means warnings and errors
	// on standard error; zerolog.Nop is silent.
	Logger *zerolog.Logger
}

// Engine connects a node to NATS. It needs no cleanup: see the package documentation.
type Engine struct {
	broker  *broker.Broker
	log     *historyLog
	wills   *wills
	objects *objects
}

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
	return &Engine{
		broker: broker.New(b, broker.Config{
			Package: "natsengine", Name: cfg.Name, Queue: cfg.Queue, Timeout: cfg.Timeout, Ping: cfg.Ping,
			Secrets: b.secrets, Logger: cfg.Logger,
		}),
		log:     newHistoryLog(b, cfg),
		objects: newObjects(b, cfg),
		wills:   newWills(b, cfg, cmp.Or(cfg.Ping, defaultPing), cmp.Or(cfg.Logger, logging.Default())),
	}, nil
}

// Adapter returns the adapter for pubsub.New. Every call returns the same adapter. When the context
// of PubSub.Run ends, the adapter continues for up to a second to send what was published before.
func (e *Engine) Adapter() pubsub.Adapter { return adapter{e.broker, e.wills} }

// History returns the log for pubsub.NewRecorded. Every call returns the same log. It needs
// JetStream and a nats-server of version 2.11 or newer.
func (e *Engine) History() history.Log { return e.log }
