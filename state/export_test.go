package state

import (
	"time"

	"bennu.example/serializer"
)

// Resolve replaces server values, at a fixed time.
func Resolve(value, current []byte) ([]byte, error) {
	return resolve(value, "key", current, time.UnixMilli(1))
}

// MergePatch applies a merge patch.
func MergePatch(value, patch []byte) ([]byte, error) { return mergePatch(value, patch) }

// ParseJoin parses the params of a join, of a map and of a document.
func ParseJoin(p serializer.Payload) error {
	_, err := parseJoin(p, kindMap)
	if _, err2 := parseJoin(p, kindDocument); err == nil {
		err = err2
	}
	return err
}

// ErrPosition refuses a join.
var ErrPosition = errPosition

// Depends reports whether a value may need the current one.
func Depends(value []byte) bool { return needsCurrent(value) }
