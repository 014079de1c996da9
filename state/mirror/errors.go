package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"bennu.example/history"
	"bennu.example/internal/statewire"
	"bennu.example/push"
)

// The reasons of a server. They are those of package state. Errors match them by errors.Is.
var (
	ErrNotFound  = statewire.ErrNotFound  // the object, or the item, does not exist
	ErrExists    = statewire.ErrExists    // the object exists, and the mode is New
	ErrForbidden = statewire.ErrForbidden // the server does not allow it
	ErrTooLarge  = statewire.ErrTooLarge  // a *LimitError: the write is too large
	ErrQuota     = statewire.ErrQuota     // a *LimitError: the object or the store is full, or writes are too frequent
	ErrInvalid   = statewire.ErrInvalid   // the write or the options can never succeed
)

// ConflictError reports that an item did not have the revision that a write requires. Nothing was
// changed.
type ConflictError struct {
	Key   string
	Rev   uint64 // of the item, zero if it does not exist
	Value []byte // of the item, in JSON; nil if it does not exist
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("mirror: conflict: the item has revision %d", e.Rev)
}

// LimitError reports that a limit of the server was exceeded. Nothing was changed.
type LimitError struct {
	Err   error         // ErrTooLarge or ErrQuota
	Max   int           // the limit
	After time.Duration // when a write may be made again; zero if that does not depend on the time
}

func (e *LimitError) Error() string { return fmt.Sprintf("%v: at most %d", e.Err, e.Max) }

// Unwrap returns Err.
func (e *LimitError) Unwrap() error { return e.Err }

// reasonUnavailable is that of a store which did not answer: a write may have been applied.
const reasonUnavailable push.Reason = "unavailable"

// refusal is the payload of an error reply.
type refusal struct {
	Reason string          `json:"reason"`
	What   string          `json:"what"`
	Key    string          `json:"key"`
	Rev    uint64          `json:"rev"`
	Value  json.RawMessage `json:"value"`
	Max    int             `json:"max"`
	After  int64           `json:"after_ms"`
}

// wireError returns the error of a reply to a push or a join. The key is that of a write of one
// item.
func wireError(err error, key string) error {
	var replied *push.Error
	if !errors.As(err, &replied) {
		return err
	}
	var r refusal
	if replied.Payload.IsBinary() || replied.Payload.Decode(&r) != nil {
		return err
	}
	switch r.Reason {
	case "conflict":
		if r.Key != "" {
			key = r.Key
		}
		c := &ConflictError{Key: key, Rev: r.Rev}
		if r.Rev > 0 {
			c.Value = r.Value
		}
		return c
	case "too large":
		return &LimitError{Err: ErrTooLarge, Max: r.Max}
	case "quota":
		return &LimitError{Err: ErrQuota, Max: r.Max, After: time.Duration(r.After) * time.Millisecond}
	case "invalid":
		return fmt.Errorf("%w: %q", ErrInvalid, r.What)
	case "not found":
		return reasonError{ErrNotFound, err}
	case "exists":
		return reasonError{ErrExists, err}
	case "forbidden":
		return reasonError{ErrForbidden, err}
	case "uncertain":
		return reasonError{history.ErrUncertain, err}
	case string(reasonUnavailable):
		return reasonError{history.ErrUnavailable, err}
	}
	return err
}

// reasonError is a reply that is also one of this package's errors.
type reasonError struct{ err, reply error }

func (e reasonError) Error() string   { return e.err.Error() }
func (e reasonError) Unwrap() []error { return []error{e.err, e.reply} }
