// Package push is one event sent and the reply it gets.
//
// [Reply] is what a server's callback answers: [OK] of a value, or [NoReply]. [Error] is an error reply at both ends: made by [Reject] and
// returned by the server's code, received by the client's.
//
// A [Push] is the client's handle for the answer, returned by [bennu.example/channel.Client.Push] and the like. It is answered once: wait for
// that by [Push.Wait], or have a function called by [Push.Receive]; who does neither need do nothing. Its methods may be called from any
// goroutine; the functions are called as all callbacks of the channel, one at a time, in order.
package push

import (
	"fmt"

	"bennu.example/serializer"
)

// The statuses that every client knows. Any other string is passed on as it is.
const (
	StatusOK    = "ok"
	StatusError = "error"
)

// Reply answers a push. The zero Reply is no reply: the client's push stays unanswered, and times out if it waits.
type Reply struct {
	Status  string
	Payload any // a Go value, or a serializer.Payload; nil is an empty object
}

// NoReply answers nothing.
var NoReply Reply

// OK is the reply with status "ok". A nil payload is an empty object.
func OK(payload any) Reply { return Reply{Status: StatusOK, Payload: payload} }

// IsZero reports whether r is no reply.
func (r Reply) IsZero() bool { return r.Status == "" && r.Payload == nil }

// Error is an error reply, the same at both ends: a server's callback returns it and its client receives it. What it
// carries goes over the wire, so put nothing in it that the client may not see.
type Error struct {
	Status  string // "error" unless the server chose another
	Payload serializer.Payload
}

// Reject is an *Error with status "error". A string becomes {"reason": …}, as Phoenix's own errors have it; other values, and
// payloads, are sent as they are.
func Reject(payload any) error {
	if s, ok := payload.(string); ok {
		payload = map[string]string{"reason": s}
	}
	return &Error{Status: StatusError, Payload: serializer.Value(payload)}
}

// Reason is the payload's "reason", or "" if it has none.
func (e *Error) Reason() string {
	var p struct {
		Reason string `json:"reason"`
	}
	if e.Payload.IsBinary() || e.Payload.Decode(&p) != nil {
		return ""
	}
	return p.Reason
}

func (e *Error) Error() string {
	if r := e.Reason(); r != "" {
		return fmt.Sprintf("push: replied %s: %s", e.Status, r)
	}
	return fmt.Sprintf("push: replied %s", e.Status)
}
