// Package reason builds {"reason": …}, the payload of Phoenix's own error replies. It is encoded
// once, however often it is sent.
package reason

import (
	"bennu.example/push"
	"bennu.example/serializer"
)

// Payload returns {"reason": text}.
func Payload(text string) serializer.Payload {
	p, err := serializer.Value(map[string]string{"reason": text}).Encoded()
	if err != nil {
		panic(err) // encoding a string never fails
	}
	return p
}

// Reply returns an error reply with that payload.
func Reply(text string) push.Reply {
	return push.Reply{Status: push.StatusError, Payload: Payload(text)}
}
