// Package broker is the half of a pubsub adapter that does not know its engine: what waits for the engine and how much of it there may be,
// which topics this node wants, connecting again, order across connections, and telling when something may have been missed. The other
// half is an [Engine].
//
// # How it works
//
// The goroutine of Run owns the connection. At each turn it hands all that came since the last one to the connection, first what was
// subscribed to and unsubscribed from, then messages, and waits for the engine's answer. So batches form by themselves under load,
// and what a node publishes after it subscribed reaches the engine after the subscription. Without anything to send, an empty batch
// asks whether the engine is still there.
//
// What the engine did not answer may have arrived or not. It is not sent again, so nothing arrives twice. Once connected again the node
// tells all others, in front of what it sends next, that it may have lost something; they call Inbox.Gap.
//
// Connections of a node are numbered, and each message carries its connection's number. A message of an earlier connection, stuck
// somewhere in between, that arrives after one of a later connection is dropped (and is a gap), so that order holds across them.
package broker
