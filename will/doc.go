// Package will stores last wills: events that the server broadcasts for a client when the client's
// connection has ended.
//
// Clients set wills with channel.Client.Will or on the channel $socket, if the topic's handler has
// channel.AllowWill. The socket's Handler keeps them in a [Store]: by default one in its memory,
// which is lost with the process. The stores of the engines survive the end of their nodes: see
// socket.Config.Wills.
//
// A Store guarantees two things. A will is claimed by one node at a time, and after the end of that
// node by another one. And once a newer connection of the same client has arrived on the topic, no
// will of its older connections can be claimed any more.
//
// Package willtest is the suite for implementations. A database that has a compare-and-swap becomes
// a Store by [NewStore].
package will
