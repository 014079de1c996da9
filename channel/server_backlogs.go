package channel

import "bennu.example/stream"

// Backlogs returns what waits for this channel, to find out why a client is slow or holds memory: a
// stream.Mailbox for its callbacks, and a stream.Outgoing for its connection, which all channels of
// the socket share. There is a stream.Parked, too, while recorded events are read from the log for
// a client that has been away, is too slow, or has no credit.
//
// A channel that has ended has no backlogs. See socket.Handler.Slowest for those of a whole node.
func (c *Channel) Backlogs() []stream.Stats {
	status := c.status()
	if status == serverEnded {
		return nil
	}
	_, _, connection := c.up.Identity()
	messages, bytes := c.mailbox.Load()
	frames, queued, oldest := c.up.Outgoing()
	all := []stream.Stats{
		{Kind: stream.Mailbox, Socket: connection, Topic: c.topic, Count: messages, Bytes: int64(bytes)},
		{Kind: stream.Outgoing, Socket: connection, Count: frames, Bytes: int64(queued), Oldest: oldest},
	}
	if p := c.past(); p != nil && status == serverJoined && !p.reader.Live() {
		all = append(all, stream.Stats{Kind: stream.Parked, Socket: connection, Topic: c.topic})
	}
	return all
}
