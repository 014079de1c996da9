package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bennu.example/history"
	"bennu.example/serializer"
)

// item is an item of the copy. It never changes.
type item struct {
	key   string
	value []byte // JSON
	rev   uint64
}

// size is what an item counts in the queue of an iterator.
func (it *item) size() int {
	if it == nil {
		return 0
	}
	return len(it.key) + len(it.value)
}

// event is the payload of any event of an object.
type event struct {
	Pos    history.Position `json:"$pos"`
	Key    string           `json:"key"`
	Rev    uint64           `json:"rev"`
	Value  json.RawMessage  `json:"value"`
	Reason string           `json:"reason"`
	Under  bool             `json:"under"`
	Items  []entry          `json:"items"`
}

// entry is an item, or the deletion of one, in a list.
type entry struct {
	Key   string          `json:"key"`
	Rev   uint64          `json:"rev"`
	Value json.RawMessage `json:"value"`
	From  string          `json:"from"`  // of an item that was moved
	Del   string          `json:"del"`   // the reason of a deletion
	Under bool            `json:"under"` // of everything below the key as well
}

var errMalformed = errors.New("malformed event")

func (f follower) Received(name string, p serializer.Payload) {
	m := f.m
	switch name {
	case "put", "del", "batch", "items", "synced":
	default:
		return // of the server's program
	}
	var e event
	if err := p.Decode(&e); err != nil || name == "put" && e.Value == nil {
		m.fail(fmt.Errorf("%w: %s", errMalformed, name))
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended != nil {
		return
	}
	switch name {
	case "put":
		m.put(e.Key, e.Rev, e.Value)
	case "del":
		m.del(e.Key, e.Rev, e.Reason, e.Under)
	case "batch", "items":
		m.applyAll(e.Items)
	}
	if !e.Pos.IsZero() {
		m.pos = e.Pos
		if !e.Pos.IsBeginning() {
			m.id = e.Pos.Epoch()
		}
	}
	if name == "synced" && !m.synced {
		m.synced, m.complete, m.stale = true, true, false
		m.emit(change{kind: Synced})
	}
	m.notify()
	m.keeper.changed()
}

// applyAll applies entries. The caller holds mu.
func (m *Mirror) applyAll(list []entry) {
	for i := 0; i < len(list); i++ {
		switch e := &list[i]; {
		case e.Value != nil:
			m.put(e.Key, e.Rev, e.Value)
		case i+1 < len(list) && list[i+1].From == e.Key && e.Key != "" && m.move(e, &list[i+1]):
			i++
		default:
			m.del(e.Key, e.Rev, e.Del, e.Under)
		}
	}
}

// separator is between the segments of a path in the copy. It sorts before all other bytes of a
// key, so that the items of a tree have the order of the server.
const separator = "\x01"

// local returns a key as the copy has it.
func (m *Mirror) local(key string) string {
	if m.kind != kindTree {
		return key
	}
	return strings.ReplaceAll(key, "/", separator)
}

// remote returns the key of an item as the server has it.
func (it *item) remote() string { return strings.ReplaceAll(it.key, separator, "/") }

// find returns the place of a key, and whether it is there. The caller holds mu.
func (m *Mirror) find(key string) (int, bool) {
	if n := len(m.items); n > 0 && m.items[n-1].key < key { // pages are in the order of the keys
		return n, false
	}
	return slices.BinarySearchFunc(m.items, key, func(it *item, key string) int { return strings.Compare(it.key, key) })
}

// get returns an item, or nil. The caller holds mu.
func (m *Mirror) get(key string) *item {
	if i, ok := m.find(m.local(key)); ok {
		return m.items[i]
	}
	return nil
}

// put puts an item. A repeated event changes nothing. The caller holds mu.
func (m *Mirror) put(key string, rev uint64, value []byte) {
	key = m.local(key)
	i, found := m.find(key)
	it := &item{key, value, rev}
	if !found {
		m.items = slices.Insert(m.items, i, it)
		m.emit(change{kind: Put, item: it, index: i})
		return
	}
	old := m.items[i]
	if rev <= old.rev {
		return
	}
	it.key = old.key // the other string is garbage now
	m.items[i] = it
	m.emit(change{kind: Put, item: it, old: old, index: i})
}

// move makes the deletion of an item and the put of its new key one change. It reports false if
// they are not. The caller holds mu.
func (m *Mirror) move(from, to *entry) bool {
	i, found := m.find(from.Key)
	if !found || from.Rev < m.items[i].rev || to.Value == nil {
		return false
	}
	if _, found := m.find(to.Key); found {
		return false
	}
	old := m.items[i]
	m.items = slices.Delete(m.items, i, i+1)
	it := &item{to.Key, to.Value, to.Rev}
	i, _ = m.find(to.Key)
	m.items = slices.Insert(m.items, i, it)
	m.emit(change{kind: Move, item: it, old: old, index: i})
	return true
}

// del deletes an item, and with under everything below it. The caller holds mu.
func (m *Mirror) del(key string, rev uint64, reason string, under bool) {
	key = m.local(key)
	if under {
		m.delUnder(key, rev, reason)
		return
	}
	i, found := m.find(key)
	if !found || rev < m.items[i].rev {
		return
	}
	old := m.items[i]
	m.items = slices.Delete(m.items, i, i+1)
	m.emit(change{kind: Delete, item: &item{key: old.key, rev: rev}, old: old, index: i, reason: reason})
}

// delUnder deletes what is at and below a key, except for what was put after the deletion. The
// caller holds mu.
func (m *Mirror) delUnder(key string, rev uint64, reason string) {
	first, end := m.subtree(key)
	last := first // the end of what stays
	for i := first; i < end; i++ {
		old := m.items[i]
		if old.rev > rev {
			m.items[last] = old
			last++
			continue
		}
		m.emit(change{kind: Delete, item: &item{key: old.key, rev: rev}, old: old, index: last, reason: reason})
	}
	m.items = slices.Delete(m.items, last, end)
}

// subtree returns the places of the items at and below a key. The caller holds mu.
func (m *Mirror) subtree(key string) (first, end int) {
	if key == "" {
		return 0, len(m.items)
	}
	first, _ = m.find(key)
	end, _ = m.find(key + "\x02") // after the separator
	return first, end
}

// decode decodes the value of an item, which may be nil.
func decode[T any](it *item) (v T, err error) {
	if it == nil || it.value == nil {
		return v, nil
	}
	if err := json.Unmarshal(it.value, &v); err != nil {
		var zero T
		return zero, fmt.Errorf("mirror: the value of %q: %w", it.remote(), err)
	}
	return v, nil
}

// value returns the value and the revision of an item. A value that is not a T is the zero T.
func value[T any](m *Mirror, key string) (T, uint64) {
	m.mu.Lock()
	it := m.get(key)
	m.mu.Unlock()
	if it == nil {
		var zero T
		return zero, 0
	}
	v, _ := decode[T](it) // Changes reports the error
	return v, it.rev
}
