// Package broker is the part of a pubsub adapter that all engines have in common. A [Broker]
// implements pubsub.Adapter: it queues messages within bounds, tracks the topics of this node,
// reconnects, keeps the order across connections and detects losses. A [Backend] implements the
// rest for one engine.
//
// # How it works
//
// The goroutine of Run owns the connection. In each turn it sends everything that was queued since
// the last turn as one batch, first subscriptions and unsubscriptions, then messages, and waits for
// the engine's answer. So batches grow under load, and a message that a node publishes after a
// subscription reaches the engine after the subscription. If there is nothing to send, an empty
// batch checks whether the engine still answers.
//
// Messages that the engine did not acknowledge may or may not have arrived. They are not sent
// again, so nothing arrives twice. After reconnecting, the node notifies all other nodes, ahead of
// its next messages, that it may have lost some. The other nodes call Inbox.Gap.
//
// A node numbers its connections, and each message contains the number of its connection. If a
// delayed message of an earlier connection arrives after one of a later connection, the receiver
// drops it and reports a gap. So the order of messages holds across connections.
package broker
