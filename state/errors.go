package state

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"bennu.example/internal/statewire"
)

var (
	// ErrNotFound reports an object that does not exist.
	ErrNotFound = statewire.ErrNotFound
	// ErrExists reports an object that exists already.
	ErrExists = statewire.ErrExists
	// ErrForbidden reports a client that Config.Allow refused.
	ErrForbidden = statewire.ErrForbidden
	// ErrTooLarge is wrapped by a *LimitError about the size of one write.
	ErrTooLarge = statewire.ErrTooLarge
	// ErrQuota is wrapped by a *LimitError about an object, a store or a rate.
	ErrQuota = statewire.ErrQuota
	// ErrInvalid is wrapped by errors about a write that can never succeed.
	ErrInvalid = statewire.ErrInvalid
)

// errForgotten refuses a repeated write if the store may have forgotten the first one.
var errForgotten = errors.New("state: the store may have forgotten the id of the write")

// ConflictError reports that the condition of an op did not hold. Nothing was changed.
type ConflictError struct {
	Op    int    // the index of the op
	Key   string // its key
	Rev   uint64 // the revision of the item, zero if it does not exist
	Value []byte // the value of the item, nil if it does not exist
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("state: conflict: op %d, revision %d", e.Op, e.Rev)
}

// LimitError reports that a limit was exceeded. Nothing was changed.
type LimitError struct {
	Err   error         // ErrTooLarge or ErrQuota
	What  string        // what is limited, such as "value"
	Max   int           // the limit
	After time.Duration // of a rate: how long to wait; otherwise zero
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%v: %s, at most %d", e.Err, e.What, e.Max)
}

// Unwrap returns Err.
func (e *LimitError) Unwrap() error { return e.Err }

// invalidError is an ErrInvalid that says what is invalid, in words for the client.
type invalidError struct{ what string }

func (e *invalidError) Error() string { return ErrInvalid.Error() + ": " + e.what }
func (e *invalidError) Unwrap() error { return ErrInvalid }

// maxWhat bounds the name that an invalidError repeats.
const maxWhat = 64

func invalid(what string) error {
	if len(what) > maxWhat {
		what = strings.ToValidUTF8(what[:maxWhat], "")
	}
	return &invalidError{what}
}
