// Package safecall calls user functions and turns their panics into errors.
package safecall

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// PanicError is the error of a call that panicked. Public packages export the type by an alias.
//
// It does not unwrap to the panic's value. That may be an error with a meaning to the caller, such
// as a rejection.
type PanicError struct {
	Value any    // the value given to panic
	Stack []byte // the stack at that moment, as debug.Stack returns it
}

// Error returns the panic's value as text.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// ErrGoexit is the error of a call that ended its goroutine by runtime.Goexit. Do does not return
// it, because it does not return then; it is for its callers.
var ErrGoexit = errors.New("callback ended its goroutine")

// Do calls f and returns its error. If f panics, Do returns a *PanicError.
//
// If f ends its goroutine by runtime.Goexit, Do cannot return. It calls exited, if that is not nil,
// and the goroutine ends.
func Do(f func() error, exited func()) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
			return
		}
		if exited != nil {
			exited()
		}
	}()
	err = f()
	returned = true
	return err
}
