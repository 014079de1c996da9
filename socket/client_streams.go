package socket

import (
	"time"

	"bennu.example/channel"
	"bennu.example/internal/backlog"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/streamset"
	"bennu.example/stream"
)

// Changes returns a stream of the changes of all channels from now on, in their order. It holds 256
// changes; in place of further ones it has a *channel.OverflowError. Close drains it.
//
// The streams of a client and of its channels are at most 1,000. Further ones are returned
// discarded.
func (c *Client) Changes() *stream.Stream[channel.Change] {
	s, isRefused := c.changes.New(streamset.Options[channel.Change]{
		About:    stream.Stats{Kind: stream.Changes},
		MaxBytes: c.cfg.MaxBacklog,
		Gone:     c.loop.Done(),
		Gap:      func(dropped int) error { return &channel.OverflowError{Dropped: dropped} },
	})
	if isRefused {
		c.streamRefused()
	}
	return s
}

// StateStream returns a stream of the current state and of all changes of it. It holds the newest
// 256 states. Close drains it.
func (c *Client) StateStream() *stream.Stream[State] {
	s, isRefused := c.states.stream(false)
	if isRefused {
		c.streamRefused()
	}
	return s
}

func (c *Client) streamRefused() {
	c.cfg.Logger.Warn().Int("max", clientlink.MaxStreams).Msg("stream refused: too many streams")
}

// channelStreams is implemented by the channels of package channel.
type channelStreams interface {
	Consumers(list []stream.Stats) []stream.Stats
	StopStreams(id uint64, discard bool) bool
}

// Consumers describes everything that receives something from the client: its streams, the queue of
// its own callbacks, and the streams and the queue of the callbacks of each channel that is joined,
// joining or leaving. A queue of callbacks has one entry even if there are no callbacks. A channel
// that answers calls of the server has an entry for those that are handled now.
func (c *Client) Consumers() []stream.Stats {
	own := stream.Stats{Kind: stream.Callbacks}
	if own.Count, own.Bytes = c.calls.Load(); own.Count > 0 {
		own.Oldest = backlog.Now() - time.Duration(c.oldestCall.Load())
	}
	list := c.states.streams.Stats([]stream.Stats{own})
	list = c.auth.states.streams.Stats(list)
	list = c.changes.Stats(list)
	for _, p := range c.progressStreams() {
		list = p.set.Stats(list)
	}
	for _, d := range c.channelList() {
		list = d.(channelStreams).Consumers(list)
	}
	return list
}

// Drain drains the stream with that number, of the client or of a channel that is joined, joining
// or leaving. It returns false if there is none. See [stream.Stream.Drain].
func (c *Client) Drain(id uint64) bool { return id != 0 && c.stopStreams(id, false) }

// Discard discards such a stream: see [Client.Drain] and [stream.Stream.Discard].
func (c *Client) Discard(id uint64) bool { return id != 0 && c.stopStreams(id, true) }

// DrainAll drains all streams of the client and of its channels.
func (c *Client) DrainAll() { c.stopStreams(0, false) }

// DiscardAll discards all streams of the client and of its channels.
func (c *Client) DiscardAll() { c.stopStreams(0, true) }

// stopStreams drains or discards the stream with that number, or all if it is zero.
func (c *Client) stopStreams(id uint64, discard bool) (found bool) {
	found = c.states.streams.Stop(id, discard)
	found = c.auth.states.streams.Stop(id, discard) || found
	found = c.changes.Stop(id, discard) || found
	for _, p := range c.progressStreams() {
		found = p.set.Stop(id, discard) || found
	}
	for _, d := range c.channelList() {
		found = d.(channelStreams).StopStreams(id, discard) || found
	}
	return found
}
