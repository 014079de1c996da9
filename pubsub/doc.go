// Package pubsub delivers broadcasts to the subscribers of a topic, in this process and on the
// other nodes of a cluster.
//
// Most programs use one [PubSub], the one of [bennu.example/socket.Handler.PubSub], and call its
// Broadcast. A program that runs on several machines creates the PubSub itself, with an [Adapter]
// such as that of package natsengine or redisengine, and gives it to everything that broadcasts:
//
//	ps := pubsub.New(adapter)
//	go ps.Run(ctx) // connects this node to the others until ctx ends
//
// # Ordering and concurrency
//
// Broadcast delivers to this node's subscribers, and then hands the broadcast to the [Adapter],
// which carries it to the other nodes. Broadcasts made by one goroutine arrive at every subscriber
// in the order in which they were made. There is no order between goroutines. A later subscriber
// does not receive earlier broadcasts.
//
// All methods may be called from any goroutine, except from the Deliver method of a [Subscriber],
// which runs on the broadcaster's goroutine and under a lock.
//
// # Recorded topics
//
// A PubSub made by [NewRecorded] stores the broadcasts that its rules select in a history.Log
// before it delivers them. All subscribers receive the records of a topic in the order of the log.
// A broadcast that could not be stored is delivered to nobody, and its error says so.
//
// # Shutdown
//
// The creator of a PubSub ends it by ending the context of Run. It must do so after the shutdown of
// everything that broadcasts, because socket handlers and presences still notify the other nodes
// while they shut down. The program must wait until Run returns: only then has the adapter sent
// these notifications. A PubSub without an adapter needs no shutdown.
package pubsub
