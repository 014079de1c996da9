package transport

import "unique"

// SlowPolicy determines what happens to a frame whose client does not read as fast as the server
// sends. It applies when the client's queue is full: MaxQueue bytes wait already.
type SlowPolicy uint8

const (
	// Inherit means the policy of the connection. In a configuration it means the policy of the
	// configuration above it, and Disconnect where there is none.
	Inherit SlowPolicy = iota
	// Disconnect never drops the frame. If the queue is full, the connection ends with code 1013. The
	// client reconnects, joins again and starts from fresh state.
	Disconnect
	// DropOldest drops the frame when a later frame needs its room. The frame that has waited longest
	// is dropped first. Frames of DropNewest do not displace it.
	DropOldest
	// DropNewest drops the frame if the queue is full.
	DropNewest
	// KeepLatest drops a waiting frame as soon as a newer one of the same Key is sent, whether or not
	// the queue is full. The newest frame of a key is never dropped: it is sent as with Disconnect. A
	// connection cannot have this policy.
	KeepLatest
)

// Delivery determines how a frame is sent to a client that reads too slowly. The zero value means
// the policy of the connection.
//
// A queue has two budgets of MaxQueue bytes. The first is for what others send to the client:
// broadcasts and the server's pushes. The policy determines what happens beyond it.
//
// The second is for what the client's own messages cause: answers, and pushes and broadcasts that
// the server makes while it handles one of its messages. While more than half of it is in use, the
// client's messages are not read, see [Conn]. Therefore a client's own messages never end its
// connection.
type Delivery struct {
	Policy SlowPolicy
	Key    Key // for KeepLatest

	// Answer marks replies and lifecycle events. They are never dropped, whatever the policy. They
	// count in the second budget and may exceed it.
	Answer bool
	// Caused marks a frame that the client's own message caused. It counts in the second budget if
	// it fits there and its policy is neither DropOldest nor DropNewest.
	Caused bool
	// IfRoom marks a frame that its sender can send later. It is sent only if it leaves room for
	// others, see [Conn]; otherwise Send returns ErrNoRoom. It counts in the first budget. Its other
	// fields are ignored.
	IfRoom bool
	// Now lets Send write the frame itself if nothing else waits for the client. Send may then call
	// the functions that were passed to Congested and Drained, so the caller must hold no locks.
	Now bool
}

// Key identifies the state that a frame carries, for KeepLatest. Keys are comparable. A frame with
// the zero Key replaces no other frame.
type Key struct{ h unique.Handle[keyParts] }

type keyParts struct{ topic, event, of string }

// NewKey returns the key of an event on a topic. If the event carries several states, of identifies
// one of them, such as a user's id. A key is made once for a frame, not once for each client.
func NewKey(topic, event, of string) Key { return Key{unique.Make(keyParts{topic, event, of})} }
