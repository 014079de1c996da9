// Package guard turns panics of sessions into errors.
package guard

import (
	"runtime/debug"

	"bennu.example/transport"
)

// crashed is how a connection ends whose session panicked with v or, if that is nil, ended its goroutine by runtime.Goexit.
func Crashed(v any) error {
	if v == nil {
		return &transport.CloseError{Code: transport.CodeInternal}
	}
	return &transport.PanicError{Value: v, Stack: debug.Stack()}
}

// notifyPanic, deferred, ends a panic and calls onPanic.
func NotifyPanic(onPanic func(value any, stack []byte)) {
	if v := recover(); v != nil {
		CallOnPanic(onPanic, v)
	}
}

// callOnPanic calls onPanic, unless it is nil, in the place of a panic. If it panics too, nobody is left to notify.
func CallOnPanic(onPanic func(value any, stack []byte), v any) {
	if onPanic == nil {
		return
	}
	defer func() { _ = recover() }()
	onPanic(v, debug.Stack())
}
