// Package pubsub brings a broadcast to every subscriber of a topic, in this process and the others.
//
// # Ordering and concurrency
//
// A broadcast is delivered to this node's subscribers before Broadcast returns, and then handed to the [Adapter], which takes it to
// the other nodes. Broadcasts of one goroutine arrive at every subscriber in the order in which it made them; those of several
// goroutines have no order among them. Nothing is stored: who subscribes later does not get it.
package pubsub
