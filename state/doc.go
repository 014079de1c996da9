// Package state shares objects over channels: documents and maps that several clients read and
// write, and that survive the connections of all of them.
//
// An object is named by its topic. It has items, each with a key, a JSON value and a revision. A
// document has one item without a key. A client that joins the topic receives the object, and then
// every change. A client that comes back continues at its position: it receives the newest value of
// each key that changed meanwhile. Any client of the protocol can do this, also the stock
// phoenix.js.
//
// Objects connects a Store, such as the Memory of this process, with channels:
//
//	objects := state.New(state.NewMemory(state.MemoryConfig{}))
//	routes := channel.Routes{
//		"cart:*":  objects.Documents(state.Config{Allow: allow}),
//		"board:*": objects.Maps(state.Config{Allow: allow}),
//	}
//
// A client may read what it can join, and nothing else until Config.Allow permits it.
//
// # Consistency
//
// The writes of one object have one order. A write can require the revision that an item has (see
// Op.If), so that a value that was read, changed and written back loses no other write. A batch is
// applied as a whole or not at all. There is no order between two objects, and a client that was
// away does not receive the values between the one that it has and the newest.
//
// The guide docs/state.md has the events and pushes of clients.
package state
