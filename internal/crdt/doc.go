// Package crdt implements a replicated set. Its replicas converge even if messages are lost,
// duplicated or reordered.
//
// It is an observed-remove set in which additions win. A value is added under a dot, which is a
// replica and a clock of that replica. It is removed by those that have seen the dot. Each value
// has one writer, the replica that added it; messages of other replicas cannot remove it there.
//
// A replica records the dots that it has seen as a clock per replica, up to which there are no
// gaps, and a cloud of dots beyond. Removed values leave no trace once the gaps have closed.
//
// Replicas exchange changes as deltas. A replica that finds from the clocks of others that it
// missed a change receives a sufficiently large delta, or the full state. The caller decides when
// to exchange what, and when a replica counts as down: this package has no timers, no goroutines
// and no network access. It is not safe for concurrent use.
//
// The rules are those of Phoenix.Tracker.State, Clock and DeltaGeneration (phoenix_pubsub 2.2),
// with three exceptions:
//
//   - A dot that was seen stays seen, so that an older message never restores a removed value.
//   - A value of a replica that is down is reported as a join only when the replica is up, so that
//     joins and leaves are exactly the changes.
//   - A removal is not forwarded by the replicas that receive it, because that would take a message
//     for each pair of replicas. A replica that missed it detects that by the clocks and requests
//     the change.
package crdt
