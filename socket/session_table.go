package socket

import (
	"hash/maphash"
	"math/bits"

	"bennu.example/internal/channelhost"
)

// channelTable is a hash table of channels by their topics. A slot has 16 bytes, because the topic
// is found in the channel. A map has slots of 33 bytes, and twice as many after it has grown.
//
// A channel is in the slot that its hash selects, or in the next one that was free. The zero
// channelTable is empty.
type channelTable struct {
	slots []channelhost.Channel // Nil means a free slot, of which there is at least one.
	used  int
}

var channelSeed = maphash.MakeSeed()

// find returns the slot of a topic, or the free slot that it would have. The table must have slots.
func (t *channelTable) find(topic string) int {
	high, _ := bits.Mul64(maphash.String(channelSeed, topic), uint64(len(t.slots)))
	i := int(high)
	for t.slots[i] != nil && t.slots[i].Topic() != topic {
		i = t.after(i)
	}
	return i
}

func (t *channelTable) after(i int) int {
	if i++; i == len(t.slots) {
		return 0
	}
	return i
}

// get returns the channel of a topic, or nil.
func (t *channelTable) get(topic string) channelhost.Channel {
	if t == nil || t.used == 0 {
		return nil
	}
	return t.slots[t.find(topic)]
}

// set adds a channel. It replaces the one that its topic has, if any.
func (t *channelTable) set(c channelhost.Channel) {
	if 4*(t.used+1) > 3*len(t.slots) {
		before := t.slots
		t.slots = make([]channelhost.Channel, max(8, len(before)*3/2))
		for _, c := range before {
			if c != nil {
				t.slots[t.find(c.Topic())] = c
			}
		}
	}
	i := t.find(c.Topic())
	if t.slots[i] == nil {
		t.used++
	}
	t.slots[i] = c
}

// remove removes the channel of a topic. The topic must have one.
func (t *channelTable) remove(topic string) {
	t.used--
	i := t.find(topic)
	t.slots[i] = nil
	for i = t.after(i); t.slots[i] != nil; i = t.after(i) { // their search may have passed the slot
		c := t.slots[i]
		t.slots[i] = nil
		t.slots[t.find(c.Topic())] = c
	}
}
