// Package channel is a conversation on one topic: the server's side and the client's.
//
// At the server a [Handler] is the definition of a kind of channel, made by [Define] from functions: how to join, and what to do on
// each event. Every join of a topic gets a [Channel] and a value of the handler's state type. [Routes] say which handler serves which
// topics; package socket serves them.
//
// At the client a [Client] is one topic of a connection, made by [bennu.example/socket.Client.Channel], joined by its Join, and kept joined
// until it is left. It pushes, and hears by On or Events. What a push gets for an answer is in package push.
//
// Begin with the examples of [Define] and [Client.Push].
//
// # Ordering and concurrency
//
// The callbacks of one Channel run one at a time, in the order in which the client's messages arrived; no lock is needed for its
// state. They may block: until the mailbox is full no other channel of the socket waits for them, nor do its heartbeats. An idle
// channel has no goroutine.
//
// What a channel sends to its client (replies, pushes, its broadcasts) arrives in the order in which it was issued, and the join's reply
// before all else. Broadcasts of others on the topic go straight to the client, without the channel's doing, so they may overtake what
// waits in its mailbox; a sender's own order holds. Events that the handler intercepts come through the mailbox instead.
//
// The context of a callback has the values of the one that [bennu.example/socket.Config.Connect] returned. It is cancelled when the
// channel was replaced by a new join of the same topic, when its join took too long, when its mailbox stayed full, and a few seconds after its
// connection ended: the messages that came before the end are still handled. [context.Cause] tells which.
//
// A Channel ends by its client's leave, by [ErrStop], by a crash, or with its connection; nobody has to close it. A Client ends by its Leave,
// by the server's phx_close, or with its socket. The order of its callbacks, and where they run, is told at [Client].
package channel
