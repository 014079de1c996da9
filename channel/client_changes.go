package channel

import (
	"bennu.example/internal/streamset"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// A Change is a transition of a client's channel from one state to another.
type Change struct {
	Topic    string
	Old, New ClientState
	Cause    error              // of StateErrored and StateClosed, as for OnError and OnClose
	Reply    serializer.Payload // of StateJoined: the reply to the join
	// Rejoin reports, for StateJoining and StateJoined, that the channel joins again by itself.
	Rejoin bool
}

// Changes returns a stream of the channel's changes from now on, each before the callbacks that it
// causes. Old is always New of the change before. The last change is the one to StateClosed. The
// stream holds 256 changes; in place of further ones it has an [*OverflowError].
//
// Changes and events that are read from different streams have no order between them.
func (c *Client) Changes() *stream.Stream[Change] {
	e := &c.events
	e.mu.Lock()
	set, isClosed := e.changes, e.closed
	if set == nil {
		set = new(streamset.Set[Change])
		set.Init(e.total, e.attached)
		if !isClosed {
			e.changes = set
		}
	}
	s, isRefused := set.New(streamset.Options[Change]{
		About:    stream.Stats{Kind: stream.Changes, Topic: c.topic},
		MaxBytes: e.max,
		Gone:     e.gone,
		Gap:      func(dropped int) error { return &OverflowError{Topic: c.topic, Dropped: dropped} },
	})
	e.mu.Unlock()
	if isRefused {
		c.streamRefused()
	}
	if isClosed {
		s.Drain()
	}
	return s
}

// changed sets the state and puts the change into the streams. It runs on the loop.
func (c *Client) changed(o *clientOutput) {
	old, _ := c.State()
	c.setStatus(o.status, o.err, o.push)
	isJoin := o.status == StateJoining || o.status == StateJoined
	if o.status == StateJoining {
		c.rejoins = old != StateClosed
	}
	e := &c.events
	e.mu.Lock()
	set := e.changes
	e.mu.Unlock()
	isWatched := c.socket.WatchesChanges()
	if old == o.status || set == nil && !isWatched {
		return
	}
	change := Change{
		Topic: c.topic, Old: old, New: o.status, Cause: o.err, Reply: o.payload, Rejoin: isJoin && c.rejoins,
	}
	size := eventOverhead + len(change.Reply.Bytes())
	if set != nil {
		set.Put(&change, size)
	}
	if isWatched {
		c.socket.Changed(change, size)
	}
}
