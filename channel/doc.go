// Package channel is a conversation on one topic: the server's side and the client's.
//
// On the server, a [Handler] defines a kind of channel. [Define] makes it from functions: how to
// join, and how to handle each event. Every join of a topic gets a [Channel] and a value of the
// handler's state type. [Routes] map topics to handlers; package socket serves them.
//
// On the client, a [Client] is one topic of a connection. [bennu.example/socket.Client.Channel]
// makes it, its Join joins it, and it stays joined until it is left. It pushes events, and receives
// them by On or Events. The answers to its pushes are in package push.
//
// Begin with the examples of [Define] and [Client.Push].
//
// # Ordering and concurrency
//
// The callbacks of one Channel run one at a time, in the order in which the client's messages
// arrived, so its state needs no lock. They may block: until the mailbox is full, no other channel
// of the socket waits for them, nor do its heartbeats. An idle channel has no goroutine.
//
// The messages that a channel sends to its client (replies, pushes, its broadcasts) arrive in the
// order in which they were sent, and the join's reply before all others. Broadcasts of others on
// the topic go straight to the client, so they may overtake messages that wait in the mailbox.
// The order of each sender is kept. Events that the handler intercepts go through the mailbox
// instead.
//
// The context of a callback has the values of the one that [bennu.example/socket.Config.Connect]
// returned. It is cancelled immediately when a new join of the same topic replaces the channel,
// when its join takes too long, when its mailbox stays full, and when the topic's log has lost
// records that its client needs. If the client leaves, or a callback returns [ErrStop] or fails,
// it is cancelled after Terminate. If the connection ends, messages that came before the end are
// still handled, and it is cancelled after that or after 5 s. [context.Cause] returns the reason.
//
// A Channel ends by its client's leave, by [ErrStop], by a crash, or with its connection; nothing
// needs to close it. A Client ends by its Leave, by the server's phx_close, or with its socket.
// [Client] documents the order of its callbacks, and where they run.
package channel
