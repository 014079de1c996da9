package transport

import (
	"unique"
)

// SlowPolicy says what happens to a frame, or for its sake, when its client does not read as fast as it is sent to. A client of which MaxQueue
// bytes wait is one whose queue is full.
type SlowPolicy uint8

const (
	// Disconnect never drops the frame: if it finds no room then the connection ends with code 1013. The client reconnects, joins again and
	// starts from fresh state. So go replies and lifecycle events, always.
	Disconnect SlowPolicy = iota
	// DropOldest drops the frame, the one that has waited longest first, when any other but one of DropNewest needs its room.
	DropOldest
	// DropNewest drops the frame if it finds no room.
	DropNewest
	// KeepLatest drops the frame as soon as another of its Key comes, if it still waits then, whether or not the queue is full. The newest
	// of a key is never dropped; otherwise as Disconnect. It is no policy for a whole connection.
	KeepLatest
	// Inherit is the connection's policy. It is no policy for a connection.
	Inherit
)

// Delivery says how a frame goes to a client that reads too slowly.
//
// A queue has two budgets of MaxQueue bytes. One is for what others send to the client: broadcasts and the server's pushes. The policy
// determines what happens beyond it. The other is for what the client's own messages cause: answers, and pushes and broadcasts made while
// one of its messages is handled. Beyond half of it the client's messages are not read, see [Conn], so that a client's own messages never
// end its connection.
type Delivery struct {
	Policy SlowPolicy
	Key    Key // of KeepLatest

	// Answer marks replies and lifecycle events: each goes into the client's own budget, which it may exceed, whatever the policy.
	Answer bool
	// Caused marks a frame that the client's own message caused. It goes into the client's own budget if it fits there and the policy is
	// neither DropOldest nor DropNewest.
	Caused bool
}

// Key names what a frame tells the latest of. It is comparable. The zero Key is none: a frame without one makes no other obsolete.
type Key struct{ h unique.Handle[keyParts] }

type keyParts struct{ topic, event, of string }

// NewKey is the key of an event on a topic, and of what in particular: a user's id, say, or "". It is made once for a frame, not for each client.
func NewKey(topic, event, of string) Key { return Key{unique.Make(keyParts{topic, event, of})} }
