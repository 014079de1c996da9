// Package safecall calls functions of users so that a panic in one of them ends nothing else.
package safecall

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// PanicError is the error of a call that panicked. It does not unwrap to the panic's value, which may be an error that means
// something else where it is returned, such as a rejection. Public packages export the type by an alias.
type PanicError struct {
	Value any    // the value given to panic
	Stack []byte // the stack at that moment, as debug.Stack returns it
}

// Error returns the panic's value as text.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// ErrGoexit is passed to the exited function of Do. The call ended its goroutine by runtime.Goexit.
var ErrGoexit = errors.New("callback ended its goroutine")

// Do calls f and returns its error. If f panics, Do returns a *PanicError. If f ends its goroutine by runtime.Goexit, Do does not
// return; it calls exited, if that is not nil, and the goroutine ends.
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
