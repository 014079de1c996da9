package pubsub

import (
	"context"
	"time"
)

// Adapter carries broadcasts between the nodes of a cluster, through an engine such as NATS or
// Redis. Its methods may be called from any goroutine. Except for Run, they must not wait for the
// engine or for each other. Package pubsubtest contains the test suite that every adapter must
// pass.
//
// While the engine is up and the nodes keep up, a broadcast arrives exactly once at every node that
// subscribed to its topic, and the broadcasts of one publisher arrive in their order. An adapter
// never buffers without bound: if its queue is full, Publish fails. When the adapter cannot know
// whether everything arrived, because the connection was lost or a queue overflowed, it calls
// Inbox.Gap.
//
// A topic may be any string. An adapter only compares topics: the broadcast given to Inbox.Deliver
// must have the topic that Publish was called with. Topics that begin with a zero byte are made by
// PubSub itself, for messages between nodes.
type Adapter interface {
	// Node returns the name of this node. It is unique in the cluster and differs after each start.
	Node() string

	// Run connects to the engine, reconnects when the connection is lost, and delivers what other
	// nodes publish, but never what this node published. When ctx ends, Run returns nil, after
	// everything that it started has ended. An error means that retrying cannot help. Run is called at
	// most once.
	Run(ctx context.Context, in Inbox) error

	// Publish queues b for one node. If node is empty, it queues b for all other nodes that subscribed
	// to its topic. An error means that b will not arrive, because the queue is full or Run is not
	// running. It is not an error if the node does not exist.
	Publish(ctx context.Context, node string, b *Broadcast) error

	// Subscribe is called when a topic gets its first subscriber on this node, and Unsubscribe when
	// the last one is gone. For one topic the calls alternate. They are made under the topic's lock.
	//
	// Once the subscription has reached the engine, broadcasts of other nodes are delivered. Those
	// made earlier may be missed.
	Subscribe(topic string)
	Unsubscribe(topic string)

	// Health returns the state of the connection. When Health.Connected changes, the adapter calls
	// Inbox.Changed.
	Health() Health
}

// Inbox receives what an adapter gets from other nodes. Its functions may be called from any
// goroutine, but for the broadcasts of one publisher they must be called in order.
type Inbox struct {
	// Deliver delivers a broadcast of another node. Neither function panics: see PubSub.OnPanic.
	Deliver func(*Broadcast)
	// Gap reports that broadcasts of other nodes may have been missed before this call.
	Gap func(reason error)
	// Changed reports that Health.Connected has changed. It must be called under no lock. Nil means
	// that nobody wants to know.
	Changed func()
}

// Health is the state of an adapter.
type Health struct {
	Connected bool      // the engine responds and, as far as is known, the other nodes use it too
	Since     time.Time // when Connected last changed; zero if it never was true
	Err       error     // why it is not connected, or that some nodes do not answer; nil if all is well
	Queued    int       // bytes that wait to be sent to the engine
	Dropped   uint64    // broadcasts of this node that the queue had no room for
	Gaps      uint64    // calls of Inbox.Gap
}
