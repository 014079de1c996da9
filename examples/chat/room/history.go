package room

import (
	"container/list"
	"slices"
	"sync"
)

// history keeps the most recent messages of each room. If there are too many rooms, it drops the
// room whose last message is the oldest. Its methods are safe for concurrent use.
type history struct {
	perRoom, maxRooms int

	mu     sync.Mutex
	rooms  map[string]*list.Element // of *transcript
	recent list.List                // most recently used room first
}

// transcript is the history of one room, oldest message first.
type transcript struct {
	topic    string
	messages []message
}

func newHistory(perRoom, maxRooms int) *history {
	return &history{perRoom: perRoom, maxRooms: maxRooms, rooms: make(map[string]*list.Element)}
}

// add adds a message and returns it. If the same user has already sent a message with this ID, add
// returns that message instead, and duplicate is true.
func (h *history) add(topic string, m message) (stored message, duplicate bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.rooms[topic]
	if !ok {
		e = h.recent.PushFront(&transcript{topic: topic})
		h.rooms[topic] = e
	}
	h.recent.MoveToFront(e)
	t := e.Value.(*transcript)
	if i := t.find(m.ID); i >= 0 && t.messages[i].User == m.User {
		return t.messages[i], true
	}
	t.messages = append(t.messages, m)
	t.messages = slices.Delete(t.messages, 0, max(0, len(t.messages)-h.perRoom))
	if h.recent.Len() > h.maxRooms {
		oldest := h.recent.Remove(h.recent.Back()).(*transcript)
		delete(h.rooms, oldest.topic)
	}
	return m, false
}

// since returns the messages of a room after the one with this ID, or all if there is no such
// message. It never returns nil.
func (h *history) since(topic, id string) []message {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.rooms[topic]
	if !ok {
		return []message{}
	}
	t := e.Value.(*transcript)
	return append([]message{}, t.messages[t.find(id)+1:]...)
}

// find returns the index of a message, or -1.
func (t *transcript) find(id string) int {
	return slices.IndexFunc(t.messages, func(m message) bool { return m.ID == id })
}
