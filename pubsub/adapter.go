package pubsub

import "context"

// Adapter carries broadcasts between the nodes of a cluster. Its methods may be called from any goroutine and, but for Run, do not
// wait for the engine behind it.
type Adapter interface {
	// Node is this node's name, unique in the cluster.
	Node() string

	// Run delivers what other nodes publish until ctx ends, reconnecting by itself. It never delivers this node's own broadcasts.
	Run(ctx context.Context, deliver func(*Broadcast) error) error

	// Publish queues b for one node, or for all the others if node is "". An error says that it will not arrive.
	Publish(ctx context.Context, node string, b *Broadcast) error

	// Subscribe tells that this node has its first subscriber of a topic; Unsubscribe, that the last one left. They are called under the
	// locks of the topics, for each topic in turn, and must not block.
	Subscribe(topic string)
	Unsubscribe(topic string)
}
