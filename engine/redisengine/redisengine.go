// Package redisengine joins the nodes of a cluster by Redis 6 or newer, or by another server that
// speaks its protocol RESP3, such as Valkey.
//
// Each node makes an [Engine] with [New] and passes its Adapter to pubsub.New. The engine has no
// connection until PubSub.Run is called. Run connects, and reconnects when the connection is lost.
// When Run has returned, everything that it started has ended, and the Engine needs no further
// cleanup. Programs call the PubSub, not the adapter.
//
// # Channels and permissions
//
// Each topic and each node has a channel. A node subscribes to the channels of topics that have
// subscribers on this node. With the prefix "bennu" the channels are bennu:t:<topic>,
// bennu:n:<node> and bennu:a:all. The adapter stores nothing. A user for nodes needs only these
// permissions:
//
//	ACL SETUSER bennu on >secret resetchannels &bennu:* -@all +hello +ping +publish +subscribe +unsubscribe +role
//
// ROLE is optional. A user at a Sentinel needs only +hello and +sentinel|get-master-addr-by-name.
//
// # History
//
// [Engine.History] keeps the recorded events of topics in Redis. A topic has two keys: the string
// bennu:h:{<topic>}:m with its top, and the stream bennu:h:{<topic>}:s with its records. An append
// is one Lua script that adds the record, removes at most 16 that exceed [history.Keep], and
// publishes it on the channel bennu:r:<topic>. Only the primary is read.
//
// The records expire with the age of the newest one. The string expires after ten times this age,
// and after 24 h at least, unless the topic has subscribers. A topic with subscribers has a string,
// even if it never had a record; it expires an hour after the last of them has left. If a client
// holds the position of a topic that never had a record, and nobody was subscribed for more than an
// hour, its position may be invalid.
//
// Redis must not evict anything: maxmemory-policy must be noeviction. Otherwise the log does not
// connect, and Health contains the reason. If the user may not read the setting, this is logged.
//
// When Append returns nil, the primary has the record. Whether it survives a crash depends on the
// settings of Redis for appendonly and appendfsync. A failover loses what the new primary does not
// have, unless Config.Wait is set. A client that has received a lost record is not continued: it
// receives recovered: false. Records that were only sent to a primary that was cut off from the
// others are lost in the same way.
//
// The history needs these permissions in addition:
//
//	ACL SETUSER bennu ~bennu:* ~{bennu}:* +config|get +wait +eval +evalsha +time +get +set +del +exists +pexpire
//	ACL SETUSER bennu +mget +xadd +xlen +xrange +xrevrange +xtrim
//
// CONFIG is optional, and so is WAIT if Config.Wait is zero.
//
// In a Redis Cluster the keys are {bennu}:h:<topic>:m and {bennu}:h:<topic>:s, so that one of its
// primaries has the whole history. The log finds this server from any of the configured addresses.
//
// # Last wills
//
// [Engine.Wills] keeps the last wills of clients in the keys {bennu}:w:…, on one server of a Redis
// Cluster. Each change is one Lua script, and all times are those of Redis. Wills that a crash or a
// failover of Redis loses are lost, unless Config.Wait is set: a will that was due may not run, or
// run again. Wills need the adapter, and in addition to the permissions of the history:
//
//	ACL SETUSER bennu +hmget +hset +zadd +zrem +zscore +zrangebyscore +sadd +srem +scard +srandmember
//
// # Once
//
// [Engine.Once] keeps the pushes that channel.Once has seen in the keys {bennu}:q:…, on one server
// of a Redis Cluster. A client and topic has three keys with at most 1,000 ids and 4 MiB of
// replies, unless the newest 16 have more. They expire with the last id. Each operation is one Lua
// script, at the time of Redis. While Redis does not answer, a push with an id is not handled: its
// reply has the reason "unavailable". The rules of the history about eviction and crashes apply:
// what Redis loses may be handled again. Once needs the adapter, and in addition to the permissions
// of the history:
//
//	ACL SETUSER bennu +hget +hset +hdel +hincrby +zadd +zrem +zcard +zrange +zrangebyscore
//
// # Shared objects
//
// [Engine.State] keeps the objects of package state. An object has the keys bennu:o:{<object>}:m,
// :i, :k, :r, :x, :w and :o, and for ten minutes after a removal with an ID, :g and :l; bennu:o,
// bennu:o:due and bennu:o:n belong to all. In a Redis Cluster they are {bennu}:o:…, on one server.
// Each write is one Lua script, at the time of Redis, which also publishes the change on the
// channel bennu:s:<object>. The rules of the history about eviction, crashes, failovers and
// Config.Wait apply to objects, too: a client that has received a write that was lost is not
// continued, and receives the whole object.
//
// Objects need these permissions, in addition to those of the adapter and the history:
//
//	ACL SETUSER bennu +hget +hset +hdel +unlink +zadd +zrem +zrange +zrangebylex +zrevrangebylex
//	ACL SETUSER bennu +zrangebyscore +zremrangebyrank +rpush +lpop +llen +lindex
//
// # Trust
//
// Everyone who may use the prefix at Redis is trusted: they can read and forge every broadcast. Use
// TLS (rediss) and a separate user wherever others can reach the network. The form of everything
// that Redis sends is checked before the client library parses it. Malformed bytes end the
// connection, never the process. Errors, logs and Health contain no passwords.
//
// # Failover
//
// A replica accepts every PUBLISH, but its primary and the nodes there never receive it. So a node
// checks the role of its server when it connects and then every Ping. A node that is connected to a
// replica reports that in Health and reconnects: to the primary that the replica names, if the user
// may call ROLE and the primary can be reached, and otherwise to the next configured address.
//
// With Sentinels, a node asks them for the primary before each connection. Name several, since a
// node only asks those that are configured:
//
//	redis://bennu:secret@sentinel-1:26379?addr=sentinel-2:26379&addr=sentinel-3:26379&master_set=mymaster
//
// Nodes also send each other small numbered probes, at least every 5 s in small clusters and at
// most about 20 each second in large ones. Probes detect connections to different primaries, and
// subscriptions that receive nothing, whatever the cause. Whenever something may have been missed,
// nodes report a gap, including nodes that start during a failover.
//
// # Losses
//
// Redis delivers at most once. A node that lost its connection or did not keep up (see
// client-output-buffer-limit pubsub) receives a gap. So do the other nodes if the node was sending
// when it lost the connection. If the nodes of a Redis Cluster lose messages on the way to each
// other, that is noticed if they lose a probe, too.
//
// # Why rueidis
//
// With RESP3, rueidis publishes, subscribes and pings on one connection, in one pipeline with
// answers in order. So subscriptions reach Redis before messages that are published after them, and
// there is only one connection that can be lost, which rueidis reports. Messages of all channels
// arrive in order on its reading goroutine.
//
// go-redis uses a separate connection for subscriptions. It reconnects and subscribes again by
// itself, and does not report which messages may have been missed. It also sends a PUBLISH again if
// its answer was lost, so that broadcasts could arrive twice.
//
// # Why no sharded channels
//
// SSUBSCRIBE and SPUBLISH distribute the channels of a Redis Cluster over its nodes, each of which
// needs a connection. A node's broadcasts to several topics would no longer have an order. Plain
// channels work through any node of a Redis Cluster.
package redisengine

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/logging"
	"bennu.example/pubsub"
)

const (
	defaultPrefix  = "bennu"
	defaultURL     = "redis://127.0.0.1:6379"
	defaultTimeout = 5 * time.Second
	defaultPing    = 5 * time.Second
	defaultQueue   = 8 << 20
)

// Config configures an Engine. The zero value uses a server on this machine.
type Config struct {
	// URL is the address of Redis, in the format of rueidis.ParseURL. Empty means
	// redis://127.0.0.1:6379. With the parameter master_set, the addresses are those of Sentinels,
	// which then need no password. Errors never contain the URL, since it may contain a password.
	URL string
	// Options configure what a URL cannot: Sentinels with a password, TLS, a dialer. URL must then be
	// empty. Several addresses are those of nodes of one Redis Cluster, and are tried in turn. Options
	// for retries, pipelines, caching and the lifetime of connections have no effect.
	Options rueidis.ClientOption
	// Prefix begins the channels. Empty means "bennu". All nodes of a cluster must use the same
	// prefix. No prefix may be the beginning of another cluster's prefix.
	Prefix string
	// Name begins the name of this node. Empty means "node".
	Name string
	// Queue limits the bytes that wait for Redis, and those that were received and wait for this node,
	// each. Zero means 8 MiB. A single broadcast must fit in it.
	Queue int
	// Timeout limits how long the server may take to answer. Zero means 5 s.
	Timeout time.Duration
	// Ping is the longest time between two requests to the server. Zero means 5 s. A server that is
	// connected but does not answer is noticed within Ping plus Timeout.
	Ping time.Duration
	// Wait is the number of replicas that must have a record before History's Append returns nil, and
	// a write before State's Apply does. If they do not have it within 1 s, the error is
	// history.ErrUncertain, and history.ErrUnavailable of a write. Zero means none.
	Wait int
	// MaxObjects bounds the number of shared objects at Redis. A node with this bound creates no
	// further ones: its state.Store returns state.ErrQuota. Zero means no bound but the memory of
	// Redis.
	MaxObjects int
	// Logger receives what an operator should know, but never payloads. Nil means warnings and errors
	// on standard error; zerolog.Nop is silent.
	Logger *zerolog.Logger
}

// Engine connects a node to Redis. It needs no cleanup: see the package documentation.
type Engine struct {
	broker  *broker.Broker
	log     *recordLog
	wills   *wills
	objects *objects
}

// New returns an Engine. It does not connect. An error means that cfg is invalid.
func New(cfg Config) (*Engine, error) {
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
	if cfg.Wait < 0 {
		return nil, errors.New("redisengine: configure: Wait is negative")
	}
	prefix, timeout := cmp.Or(cfg.Prefix, defaultPrefix), cmp.Or(cfg.Timeout, defaultTimeout)
	secrets = append(secrets, opts.Password, opts.Sentinel.Password)
	logger := cmp.Or(cfg.Logger, logging.Default())
	more := logConfig{
		timeout: timeout, ping: cmp.Or(cfg.Ping, defaultPing), queue: cmp.Or(cfg.Queue, defaultQueue),
		wait: cfg.Wait, maxObjects: cfg.MaxObjects, secrets: secrets,
	}
	return &Engine{
		broker: broker.New(newBackend(prefix, timeout, cfg.Queue, opts), broker.Config{
			Package: "redisengine", Name: cfg.Name, Queue: cfg.Queue, Timeout: cfg.Timeout, Ping: cfg.Ping,
			Echo: true, Secrets: secrets, Logger: cfg.Logger,
		}),
		log:     newRecordLog(newBackend(prefix, timeout, cfg.Queue, opts), prefix, more, logger),
		wills:   newWills(newBackend(prefix, timeout, cfg.Queue, opts), prefix, more, logger),
		objects: newObjects(newBackend(prefix, timeout, cfg.Queue, opts), prefix, more, logger),
	}, nil
}

// Adapter returns the adapter for pubsub.New. Every call returns the same adapter. When the context
// of PubSub.Run ends, the adapter continues for up to a second to send what was published before.
func (e *Engine) Adapter() pubsub.Adapter { return adapter{e.broker, e.wills} }

// History returns the log for pubsub.NewRecorded. Every call returns the same log. It has
// connections of its own, and needs more permissions than the adapter: see the package
// documentation.
func (e *Engine) History() history.Log { return e.log }
