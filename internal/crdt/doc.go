// Package crdt is a replicated set whose replicas agree, whatever is lost, doubled or reordered between them.
//
// It is an observed-remove set in which adding wins: every value is added under a dot (its replica and that replica's clock) and
// removed by those who have seen that dot. Each value has one writer, the replica that added it; another one's word does not remove it
// there. A replica remembers which dots it has seen, as a clock per replica up to which there are no gaps, and a cloud of dots beyond;
// values that were removed leave nothing behind once the gaps have closed.
//
// Replicas exchange what is new as deltas. One that finds by the clocks of others that it missed something is given a delta that is
// large enough, or everything. What they exchange, when, and what is said about a replica that is not heard of is the caller's to
// decide: there is no clock, no goroutine and no network here, and nothing is safe for concurrent use.
//
// The rules are those of Phoenix.Tracker.State, Clock and DeltaGeneration (phoenix_pubsub 2.2), but for three. Dots once seen stay seen
// whatever comes after, so that an older message never brings back what was removed. A value that comes for a replica which is down is
// not told as a join before that is up again, so that joins and leaves are exactly what changes. And a removal is not told on by those
// who learn of it, which would make every removal as many messages as there are pairs of replicas: who missed it sees that by the
// clocks, and asks.
package crdt
