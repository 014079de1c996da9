package transport

import "fmt"

// PanicError is the reason of a connection's end when the session panicked. It wraps a *CloseError with CodeInternal.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("transport: session panicked: %v", e.Value) }

// Unwrap returns what the client is told.
func (e *PanicError) Unwrap() error { return &CloseError{Code: CodeInternal} }
