package state

import (
	"context"
	"time"
	"unsafe"

	"bennu.example/history"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/will"
)

// Resolve replaces server values, at a fixed time.
func Resolve(value, current []byte) ([]byte, error) {
	return resolve(value, "key", current, time.UnixMilli(1))
}

// MergePatch applies a merge patch.
func MergePatch(value, patch []byte) ([]byte, error) { return mergePatch(value, patch) }

// ParseJoin parses the params of a join, of a map and of a document.
func ParseJoin(p serializer.Payload) error {
	_, err := parseJoin(p, kindMap, &Config{})
	if _, err2 := parseJoin(p, kindDocument, &Config{}); err == nil {
		err = err2
	}
	return err
}

// ParsePath returns the key of a path that a client has sent, and the path of the key.
func ParsePath(path string) (key, again string, err error) {
	key, err = parsePath(path)
	return key, wireKey(key), err
}

// Leaves returns the keys and the values of the leaves of a value, which must be valid JSON.
func Leaves(key string, value []byte) (keys []string, values [][]byte, err error) {
	leaves, err := appendLeaves(nil, key, value)
	for _, l := range leaves {
		keys, values = append(keys, l.key), append(values, l.raw)
	}
	return keys, values, err
}

// Since returns the position in the params of a join of a map.
func Since(p serializer.Payload) (history.Position, error) {
	params, err := parseJoin(p, kindMap, &Config{})
	return params.since, err
}

// ErrPosition refuses a join.
var ErrPosition = errPosition

// Depends reports whether a value may need the current one.
func Depends(value []byte) bool { return needsCurrent(value) }

// ListKey returns a new key between two keys of a list.
func ListKey(lower, upper string) (string, error) { return listKey(lower, upper) }

// AddInt adds 1 or -1 to the integer of a key.
func AddInt(integer string, by int) (string, error) { return addInt(integer, by) }

// IsListKey reports whether a key may be one of a list.
func IsListKey(key string) bool {
	_, _, ok := cutInt(key)
	return ok
}

// WindowSize is the size of a session's window, without its rows.
const WindowSize = unsafe.Sizeof(window{})

// IsConflated reports whether a newer event of the item's key replaces a waiting event of it.
func IsConflated(it Item) bool {
	return changeFrame("topic", []Item{it}, history.Position{}).how.Policy == transport.KeepLatest
}

// RunWillOfMap returns the callback of wills of a handler of maps.
func (o *Objects) RunWillOfMap(cfg Config) func(context.Context, will.Will) error {
	return (&handler{o: o, kind: kindMap, cfg: cfg}).runWill
}
