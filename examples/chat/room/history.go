package room

import (
	"container/list"
	"slices"
	"sync"
)

// history remembers what was said last, room by room. When there are too many rooms it forgets the one that was silent for longest.
// Its methods may be called from any goroutine.
type history struct {
	perRoom, maxRooms int

	mu     sync.Mutex
	rooms  map[string]*list.Element // of *transcript
	recent list.List                // the room spoken in last is at the front
}

type transcript struct {
	topic    string
	messages []message
}

func newHistory(perRoom, maxRooms int) *history {
	return &history{perRoom: perRoom, maxRooms: maxRooms, rooms: make(map[string]*list.Element)}
}

// add remembers a message. If it was said before then that one is returned, and again is true.
func (h *history) add(topic string, m message) (said message, again bool) {
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

// since is what was said in a room after the message with this id, or everything if it is not remembered. It is never nil.
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

// find is the index of a message, or -1.
func (t *transcript) find(id string) int {
	return slices.IndexFunc(t.messages, func(m message) bool { return m.ID == id })
}
