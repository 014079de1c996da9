// Package durable is the outbox of a client: the pushes of channel.Client.PushDurable, which a
// store keeps until they are answered, over restarts of the program.
//
// An [Outbox] belongs to one socket.Client. Its entries have two owners. The committer, a
// goroutine that runs only while it has something to do, makes every change of the store, in the
// order of Seq. Everything else happens on the client's loop: there each topic has a queue of the
// entries that were stored and not answered, of which the oldest are sent.
//
// An entry is sent by a channel that is joined, as a push of its own, called an attempt. The
// result of an attempt is final or not. A final one answers the entry. Then OnDelivered is called,
// and when it has returned, the entry is dropped from the store.
//
// The outbox also has the client's mirrors: what the store keeps of topics. See [Mirror].
package durable
