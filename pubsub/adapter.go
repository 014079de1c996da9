package pubsub

import (
	"context"
	"time"
)

// Adapter carries broadcasts between the nodes of a cluster, by an engine like NATS or Redis. Its methods may be called from any goroutine
// and, but for Run, wait neither for the engine nor for each other. Package pubsubtest has the suite that every adapter passes.
//
// While the engine is up and nodes keep up, a broadcast arrives at every node that subscribed to its topic exactly once, and those of one
// publisher in their order. An adapter never buffers without bound: what finds no room is an error at its publisher. When it cannot know
// that everything arrived (the connection was lost, a queue overflowed), it says so by Inbox.Gap.
//
// A topic may be any string. An adapter only compares it: Inbox.Deliver must get the topic of a Broadcast as Publish
// got it. The topics that begin with a zero byte are made by PubSub itself, for messages between nodes.
type Adapter interface {
	// Node is this node's name, unique in the cluster and other after each start.
	Node() string

	// Run connects to the engine, reconnects when the connection is lost, and delivers what other nodes
	// publish, but never what this node published. When ctx ends, Run returns nil, after everything
	// that it started has ended. An error means that retrying cannot help. Run is called at most once.
	Run(ctx context.Context, in Inbox) error

	// Publish queues b for one node, or for all others that subscribed to its topic if node is "". An error says that it will not arrive: the
	// queue is full, or Run is not running. A node that is not there is no error.
	Publish(ctx context.Context, node string, b *Broadcast) error

	// Subscribe tells that this node has its first subscriber of a topic; Unsubscribe, that the last one left. For one topic they take
	// turns. They are called under the topics' locks. A broadcast of another node that is made after the subscription reached the engine is
	// delivered; until then it may be missed, as it would have been a moment earlier.
	Subscribe(topic string)
	Unsubscribe(topic string)

	// Health is how things stand.
	Health() Health
}

// Inbox is where an adapter brings what it receives. Its functions may be called from any goroutine; for one publisher, in order.
type Inbox struct {
	// Deliver takes a broadcast of another node. Neither function panics: see PubSub.OnPanic.
	Deliver func(*Broadcast)
	// Gap tells that broadcasts of other nodes may have been missed until now.
	Gap func(reason error)
}

// Health is the state of an adapter.
type Health struct {
	Connected bool      // the engine answers, and is where the other nodes are, as far as is known
	Since     time.Time // when Connected last changed; zero: never connected
	Err       error     // why it is not, or that nodes were silent and some still are; otherwise nil
	Queued    int       // bytes that wait for the engine
	Dropped   uint64    // broadcasts of this node that found no room
	Gaps      uint64    // calls of Inbox.Gap
}
