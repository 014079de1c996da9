// Package statewire has the errors that package state and its Go clients share. A client must not
// import the server's package to tell them apart.
package statewire

import "errors"

// Package state documents these.
var (
	ErrNotFound  = errors.New("state: not found")
	ErrExists    = errors.New("state: the object exists")
	ErrForbidden = errors.New("state: forbidden")
	ErrTooLarge  = errors.New("state: too large")
	ErrQuota     = errors.New("state: quota exceeded")
	ErrInvalid   = errors.New("state: invalid")
)
