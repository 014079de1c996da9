// Package presence tracks which clients are present on a topic, across all nodes of a cluster.
//
// A server creates one [Presence] and tracks channels in it, usually in the callback that follows
// a join:
//
//	func (r *room) joined(ctx context.Context, c *channel.Channel, _ joined) error {
//		// Sends presence_diff to all subscribers of the topic, c included.
//		if _, err := r.presence.Track(c, r.user, device{"phone"}); err != nil {
//			return err
//		}
//		// Sends presence_state to this client. A client that rejoins finds itself in it
//		// and does not see a leave.
//		return r.presence.Push(c)
//	}
//
// A presence has a key, such as a user ID, and a meta with details, such as a device or a status.
// Several channels may track the same key; each adds a meta. A presence ends with its channel,
// however the channel ends. The wire format is that of Phoenix.Presence, so phoenix.js works
// unchanged. The client in this package, [NewClient], works with Phoenix servers.
//
// # Ordering and concurrency
//
// All methods are safe for concurrent use. Only Close waits, and List, Get, Page and Push wait for
// Fetch. When Track, Update and Untrack return, List, Get and Count on the same node reflect the
// change.
//
// The subscribers on this node receive the diffs of a topic in the order of the changes. Applied to
// an earlier State, the diffs produce a later one, with metas in the same order. Queued changes may
// be merged into one diff.
//
// While the callback of an event runs, the diffs for its client wait for the reply, for at most a
// second. Other clients receive them at once. Otherwise a diff may arrive before or after the
// channel's other messages. It may repeat what the client found in its presence_state; clients
// detect this by phx_ref.
//
// The goroutine that made a change broadcasts its diff, unless the change has to wait for a window.
// If Fetch or OnDiff is set, worker goroutines broadcast instead; they exit when there are no
// diffs.
//
// Fetch and OnDiff are never called under a lock. For one topic, the calls are serialized and in
// order. An error or a panic in one of them is logged and has no other effect.
//
// # Clusters
//
// With an adapter (see package pubsub) each node holds the presences of all nodes and computes its
// own diffs. A change is sent to the other nodes immediately if nothing was sent for
// [Config.Delay], and otherwise when Delay has passed. A node that missed a message recovers its
// content when the next message reveals the gap.
//
// The presences of an unreachable node leave after [Config.Down] and return when the node is
// reachable again. Only the node that tracks a presence can end it. Without an adapter there are no
// permanent goroutines, and the only timers are those of [Config.Grace] and [Config.Window].
//
// The creator of a Presence must call Close after the sockets that it serves have been shut down.
package presence
