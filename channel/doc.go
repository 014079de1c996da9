// Package channel is a conversation on one topic: the server's side and the client's.
//
// At the server a [Handler] is the definition of a kind of channel, made by [Define] from functions: how to join, and what to do on
// each event. Every join of a topic gets a [Channel] and a value of the handler's state type.
//
// # Ordering and concurrency
//
// The callbacks of one Channel run one at a time, in the order in which the client's messages arrived; no lock is needed for its
// state. They run on a goroutine of their own, so that a slow one delays neither other channels of the socket nor its heartbeats. An
// idle channel has no goroutine.
//
// What a channel sends to its client (replies, pushes, its broadcasts) arrives in the order in which it was issued, and the join's reply
// before all else. Broadcasts of others on the topic go straight to the client, without the channel's doing, so they may overtake what
// waits in its mailbox; a sender's own order holds. Events that the handler intercepts come through the mailbox instead.
//
// The context of a callback has the values of the one that [bennu.example/socket.Config.Connect] returned. It is cancelled when the
// channel was replaced by a new join of the same topic, when its join took too long, when its mailbox stayed full, and a few seconds after its
// connection ended: the messages that came before the end are still handled. [context.Cause] tells which.
package channel
