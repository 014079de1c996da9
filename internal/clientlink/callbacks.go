package clientlink

import (
	"reflect"
	"runtime"
)

// Callbacks wraps run, which calls user functions, so that InCallback can detect it.
func Callbacks[T any](run func(T)) func(T) {
	return func(v T) { inCallback(func() { run(v) }) }
}

// inCallback marks the calling goroutine by its own frame while f runs. It must not be inlined,
// because an inlined function has no frame.
//
//go:noinline
func inCallback(f func()) { f() }

// inCallbackEntry identifies the frames of inCallback.
var inCallbackEntry = reflect.ValueOf(inCallback).Pointer()

// InCallback reports whether a function made by Callbacks is on the stack of the calling goroutine.
// A function that waits for user functions to return must not wait if they are its callers.
func InCallback() bool {
	var pcs [64]uintptr
	for skip := 1; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		if n == 0 {
			return false
		}
		frames := runtime.CallersFrames(pcs[:n])
		for more := true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if f.Entry == inCallbackEntry {
				return true
			}
		}
	}
}
