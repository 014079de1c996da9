// Package guard handles the panics of sessions and of the functions that report them.
package guard

import (
	"fmt"
	"runtime/debug"

	"bennu.example/internal/safecall"
	"bennu.example/transport"
)

// ReasonFor returns the reason for the end of a connection whose session panicked with v. It wraps
// a *transport.CloseError with CodeInternal, and a *safecall.PanicError. If v is nil, the session
// ended its goroutine by runtime.Goexit, and the reason is the CloseError alone.
func ReasonFor(v any) error {
	closed := &transport.CloseError{Code: transport.CodeInternal}
	if v == nil {
		return closed
	}
	return fmt.Errorf("transport: session: %w (%w)", &safecall.PanicError{Value: v, Stack: debug.Stack()}, closed)
}

// NotifyPanic recovers a panic and passes it to onPanic. It must be deferred.
func NotifyPanic(onPanic func(value any, stack []byte)) {
	if v := recover(); v != nil {
		CallOnPanic(onPanic, v)
	}
}

// CallOnPanic calls onPanic, unless it is nil, with a recovered value and the stack. It must be
// called by the deferred function that recovered v. A panic of onPanic itself is ignored.
func CallOnPanic(onPanic func(value any, stack []byte), v any) {
	if onPanic == nil {
		return
	}
	defer func() { _ = recover() }()
	onPanic(v, debug.Stack())
}
