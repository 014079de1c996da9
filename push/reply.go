// Package push defines replies, on the server and on the client, and the client's handle of a push.
//
// A callback of the server returns a [Reply]: the result of [OK], or [NoReply]. It may also return
// an [Error], which [Reject] creates. The client receives it as an Error again.
//
// A [Push] is the client's handle of an event that it sent, for example with
// [bennu.example/channel.Client.Push]. It has one result. A client waits for it with [Push.Wait],
// registers functions for it with [Push.Receive], or ignores it.
package push

import (
	"fmt"

	"bennu.example/serializer"
)

// The statuses that every client knows. Other statuses are allowed, and are sent unchanged.
const (
	StatusOK    = "ok"
	StatusError = "error"
)

// Reply is the reply to a push. The zero Reply means that no reply is sent. A client that waits for
// one times out.
type Reply struct {
	Status  string
	Payload any // a Go value or a serializer.Payload; nil means an empty object
}

// NoReply means that no reply is sent.
var NoReply Reply

// OK returns a reply with status "ok". Nil means an empty object.
func OK(payload any) Reply { return Reply{Status: StatusOK, Payload: payload} }

// IsZero reports whether r is NoReply.
func (r Reply) IsZero() bool { return r.Status == "" && r.Payload == nil }

// Error is an error reply. A callback of the server returns it, and the client receives it. All of
// it is sent to the client, so it must not contain secrets.
type Error struct {
	Status  string // "error" unless the server chose another
	Payload serializer.Payload
}

// Reject returns an *Error with status "error". A string is sent as {"reason": …}, like the errors
// of Phoenix itself. Other values are sent unchanged.
func Reject(payload any) error {
	if s, ok := payload.(string); ok {
		payload = map[string]string{"reason": s}
	}
	return &Error{Status: StatusError, Payload: serializer.Value(payload)}
}

// Is reports whether target is the Reason that e carries.
func (e *Error) Is(target error) bool {
	r, ok := target.(Reason)
	return ok && r != "" && e.Reason() == string(r)
}

// Reason returns the "reason" of the payload. It is empty if the payload has none.
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

// Reason is an error that a client receives as {"reason": …}. A callback of the server returns it
// instead of Reject of the same text. Both ends find it with errors.Is, as in
//
//	errors.Is(err, push.Reason("full"))
//
// A program defines its reasons as constants that its server and its clients share. Clients receive
// the text, so it must not contain secrets.
type Reason string

func (r Reason) Error() string { return "push: reason " + string(r) }
