package socket

import (
	"iter"

	"bennu.example/internal/channelhost"
)

// channelSet is the joined channels of a session, by topic. Most sessions have one, or one and
// $socket, and need no table.
type channelSet struct {
	few  [2]channelhost.Channel // nil where there is none
	more *channelTable          // of other topics; nil if there are none
}

// get returns the channel of a topic, or nil.
func (s *channelSet) get(topic string) channelhost.Channel {
	for _, c := range s.few {
		if c != nil && c.Topic() == topic {
			return c
		}
	}
	return s.more.get(topic)
}

func (s *channelSet) size() int {
	n := 0
	if s.more != nil {
		n = s.more.used
	}
	for _, c := range s.few {
		if c != nil {
			n++
		}
	}
	return n
}

// add adds a channel. It replaces the one that its topic has, if any.
func (s *channelSet) add(c channelhost.Channel) {
	topic := c.Topic()
	before := s.get(topic)
	if s.more.get(topic) == nil {
		for i := range s.few {
			if s.few[i] == before { // nil means that there is room
				s.few[i] = c
				return
			}
		}
	}
	if s.more == nil {
		s.more = new(channelTable)
	}
	s.more.set(c)
}

// remove removes a channel, unless its topic has another one.
func (s *channelSet) remove(c channelhost.Channel) {
	for i := range s.few {
		if s.few[i] == c {
			s.few[i] = nil
			return
		}
	}
	if topic := c.Topic(); s.more.get(topic) == c {
		if s.more.remove(topic); s.more.used == 0 {
			s.more = nil
		}
	}
}

// all returns an iterator over the topics and their channels, in no order. The set must not change
// meanwhile.
func (s *channelSet) all() iter.Seq2[string, channelhost.Channel] {
	return func(yield func(string, channelhost.Channel) bool) {
		for _, c := range s.few {
			if c != nil && !yield(c.Topic(), c) {
				return
			}
		}
		if s.more == nil {
			return
		}
		for _, c := range s.more.slots {
			if c != nil && !yield(c.Topic(), c) {
				return
			}
		}
	}
}

// list returns all channels.
func (s *channelSet) list() []channelhost.Channel {
	list := make([]channelhost.Channel, 0, s.size())
	for _, c := range s.all() {
		list = append(list, c)
	}
	return list
}
