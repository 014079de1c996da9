// Package call asks clients, and handles what the server asks.
//
// A push goes from a client to the server and gets a reply. A call goes the other way: the server
// sends an event to one client and waits for its answer. [To] calls the client of one channel, and
// [Handle] registers what a Go client answers. Both decode payloads into Go types. They are
// [channel.Channel.Call] and [channel.Client.Handle] otherwise, whose documentation has the rules.
//
// Channels of phoenix.js can answer, too: see docs/channels.md.
//
// [Gather] calls all clients of a topic, on all nodes.
//
// A [Writer] pushes a stream of events to the server, as fast as the server answers them.
package call
