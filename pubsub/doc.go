// Package pubsub brings a broadcast to every subscriber of a topic, in this process and the others.
//
// Most programs have one [PubSub], that of [bennu.example/socket.Handler.PubSub], and call its Broadcast. One that runs on several machines
// makes it, by [New] of an [Adapter] such as that of package natsengine or redisengine, and gives it to everything that broadcasts:
//
//	ps := pubsub.New(adapter)
//	go ps.Run(ctx) // what others broadcast comes in, until ctx ends
//
// # Ordering and concurrency
//
// A broadcast is delivered to this node's subscribers before Broadcast returns, and then handed to the [Adapter], which takes it to
// the other nodes. Broadcasts of one goroutine arrive at every subscriber in the order in which it made them; those of several
// goroutines have no order among them. Nothing is stored: who subscribes later does not get it.
//
// All methods may be called from any goroutine, but not by a [Subscriber]'s Deliver, which runs on the broadcaster's.
//
// Who made a PubSub ends it, by the end of Run's context, after all that broadcasts: a shutdown and a presence still have to tell the other
// nodes. What they told is on its way when Run has returned, so a program waits for that. Without an adapter there is nothing to end.
package pubsub
