// Package presence tells everyone on a topic who else is there, on every node.
//
// A server makes one [Presence] and tracks channels in it, usually in the callback that follows a join:
//
//	func (r *room) joined(ctx context.Context, c *channel.Channel, _ joined) error {
//		if _, err := r.presence.Track(c, r.user, device{"phone"}); err != nil { // presence_diff to everyone, here included
//			return err
//		}
//		return r.presence.Push(c) // presence_state: a client that comes back finds itself in it, and sees nobody leave
//	}
//
// A presence is tracked under a key, which is who it is (a user's id), with a meta, which says more (a device, a status). One key
// may be tracked by many channels: each adds a meta. Whatever way a channel ends, what it tracks ends with it. On the wire it is as
// Phoenix's presence, so that phoenix.js follows it, and the other end of the channel here, [NewClient], follows Phoenix's.
//
// # Ordering and concurrency
//
// All methods may be called from any goroutine and wait for nobody. Track, Update and Untrack are seen by List, Get and Count on the
// same node when they return. The diffs of a topic reach this node's subscribers in the order of the changes; applied to an earlier
// State they give a later one, metas in the same order. Changes that wait for their turn may become one diff. A diff may come before
// or after what else the channel sends, and may repeat what the client found in its presence_state: clients go by phx_ref and notice.
//
// The diffs are broadcast by the goroutine that made the change, or, if there is a Fetch, an OnDiff or a Window, by some that live
// while there are diffs. These callbacks are never called under a lock, and for one topic one at a time, in order. If one fails or
// panics, that is logged and costs nothing else.
//
// # Many nodes
//
// With an adapter (see package pubsub) each node has all presences of all nodes, and computes its own diffs. What is tracked on one is
// known on the others at once after some quiet, and within [Config.Delay] otherwise; what a message that was lost should have told, as
// soon as the next one shows that it was. The presences of a node that is not heard leave after [Config.Down], and are back when it is
// heard again. Only the node of a presence's owner ends it. Without an adapter there is no goroutine that stays, and no timer but
// those of [Config.Grace] and [Config.Window].
//
// A Presence is closed by who made it, after the sockets that it serves have been shut down.
package presence
