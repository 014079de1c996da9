package push

import (
	"context"
	"time"
)

// OnceConfig configures channel.Once.
type OnceConfig struct {
	// Window is how long the reply to a push is kept. It begins anew when the push is received again.
	// Clients that keep pushes while they are offline need one of 48 h or more. Zero means 10 min.
	Window time.Duration
	// Store has the replies. Handlers on several nodes need one that the nodes share. Nil means
	// NewOnceMemory(0).
	Store OnceStore
}

// OnceStore has the pushes that channel.Once has seen. It is used by several nodes at once. Package
// push/oncetest tests implementations.
//
// A key is a string of at most 128 bytes. Its part before the last "." names the client and the
// topic. Of these a store keeps at most 1,000 keys, and a few more if several nodes add some at the
// same time. It drops the reply that was used longest ago to stay below. It may keep fewer if
// replies are large, but not less than 16. The part before the first "." names the client. A holder
// names one attempt to handle a push. A reply is not empty and has at most 65 KiB.
//
// A store may have a method Evicted() uint64, the number of replies that it dropped because it was
// full. It is part of socket.Stats.
type OnceStore interface {
	// Begin claims a key for a holder, who keeps it for the time of the lease. If the holder has it
	// already, the lease begins anew. If a reply is recorded, Begin returns it, and its window begins
	// anew. If another holder has the key, mine is false and reply is nil.
	//
	// ErrTooManyIDs means that 1,000 keys of the client and topic are being handled, or that the store
	// is full of such keys.
	Begin(ctx context.Context, key, holder string, lease time.Duration) (mine bool, reply []byte, err error)
	// Finish records the reply for the window and returns the reply that counts. That is the one of
	// the first Finish, also if the lease of that holder had ended.
	Finish(ctx context.Context, key, holder string, reply []byte, window time.Duration) (counts []byte, err error)
	// Release gives up a key that the holder has and that has no reply. Otherwise it does nothing.
	Release(ctx context.Context, key, holder string) error
}
