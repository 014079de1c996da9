// Package willtimes has the periods in which the nodes of a cluster keep last wills. Users cannot
// change them, because all nodes that share a store must agree. Tests do, by a store that has a
// method WillTimes.
package willtimes

import "time"

// Times are the periods of one node.
type Times struct {
	// Lease is how long a node counts as alive without a sign of life, which it gives every Renew. A
	// node that could not do so for Stop runs no wills, because others run its own.
	Lease, Renew, Stop time.Duration
	// Poll is the mean time between two searches for the wills of other nodes.
	Poll time.Duration
	// Hold is the time for which wills are claimed.
	Hold time.Duration
	// Retry is the pause after a failure.
	Retry time.Duration
}

// Default returns the times of every node, except in tests.
func Default() Times {
	return Times{
		Lease: 30 * time.Second, Renew: 10 * time.Second, Stop: 25 * time.Second,
		Poll: 10 * time.Second, Hold: 10 * time.Second, Retry: time.Second,
	}
}

// Run is the part of Hold in which wills are broadcast.
func (t Times) Run() time.Duration { return t.Hold / 2 }

// Timed is a store with times of its own.
type Timed interface{ WillTimes() Times }

// Of returns the times for a store.
func Of(store any) Times {
	if timed, ok := store.(Timed); ok {
		return timed.WillTimes()
	}
	return Default()
}
