package socket

import (
	"slices"

	"bennu.example/channel"
	"bennu.example/internal/clientlink"
)

// clientHandlesKept is the number of channels that are closed and that Subscribe would join again.
const clientHandlesKept = 1000

// clientHandles are the channels that Subscribe has made. They belong to the loop.
type clientHandles struct {
	byTopic map[string]*channel.Client // by the topic on the wire
	closed  []string                   // the topics of those that are closed, in the order of their ends
}

// Subscribe joins a topic and returns its channel. If a channel of the topic is joined, or tries to
// join, Subscribe returns that one and ignores the params, so that the parts of a program can share
// it. They share its Leave, too: the first one leaves for all.
//
// Subscribe remembers its channels. If the one of the topic was left or closed, Subscribe joins it
// again, with its callbacks and its params. It forgets the oldest of more than 1,000 closed ones.
//
// Subscribe, Lookup and Topics wait for the goroutine that maintains the connection, but not for
// the network.
func (c *Client) Subscribe(topic string, params any) *channel.Client {
	made := c.Channel(topic, params)
	h := made
	c.onLoop(func() { h = c.subscribe(topic, made) })
	h.Join()
	return h
}

// Lookup returns the channel that has a topic: its Join was called, and it has not been closed
// since. Among two, of which one is leaving, it returns the other one.
func (c *Client) Lookup(topic string) (ch *channel.Client, ok bool) {
	c.onLoop(func() { ch = c.handleOf(topic) })
	return ch, ch != nil
}

// Topics returns the topics that have a channel, in alphabetical order. See Lookup.
func (c *Client) Topics() (topics []string) {
	c.onLoop(func() {
		for _, list := range c.topics {
			topics = append(topics, handle(list[0]).Topic())
		}
	})
	slices.Sort(topics)
	return topics
}

// onLoop runs f on the loop, after what was posted before, and waits for it. After the end of the
// loop it does nothing.
func (c *Client) onLoop(f func()) {
	done := make(chan struct{})
	if c.post(clientTask(func() { f(); close(done) })) {
		<-done
	}
}

// handleOf returns the channel that has a topic, or nil.
func (c *Client) handleOf(topic string) (h *channel.Client) {
	for _, d := range c.topics[c.prefixFor(topic)+topic] {
		if h == nil || !d.IsLeaving() {
			h = handle(d)
		}
	}
	return h
}

// handle returns the user's end of a channel.
func handle(d clientlink.Channel) *channel.Client {
	return d.(interface{ Handle() *channel.Client }).Handle()
}

// subscribe returns the channel for a call of Subscribe, which has made one in case that there is
// none.
func (c *Client) subscribe(topic string, made *channel.Client) *channel.Client {
	if h := c.handleOf(topic); h != nil {
		return h
	}
	s := &c.handles
	wire := c.prefixFor(topic) + topic
	if h := s.byTopic[wire]; h != nil {
		return h
	}
	if s.byTopic == nil {
		s.byTopic = make(map[string]*channel.Client)
	}
	s.byTopic[wire] = made
	return made
}

// attached notes that a channel is joined.
func (s *clientHandles) attached(topic string, d clientlink.Channel) {
	if i := slices.Index(s.closed, topic); i >= 0 && s.has(topic, d) {
		s.closed = slices.Delete(s.closed, i, i+1)
	}
}

// detached notes that a channel is closed, and forgets the oldest one.
func (s *clientHandles) detached(topic string, d clientlink.Channel) {
	if !s.has(topic, d) {
		return
	}
	if len(s.closed) == clientHandlesKept {
		delete(s.byTopic, s.closed[0])
		s.closed = slices.Delete(s.closed, 0, 1)
	}
	s.closed = append(s.closed, topic)
}

func (s *clientHandles) has(topic string, d clientlink.Channel) bool {
	h := s.byTopic[topic]
	return h != nil && h == handle(d)
}
