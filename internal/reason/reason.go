// Package reason makes {"reason": …}, which is the payload of Phoenix's own error replies. It is encoded once, however often it is sent.
package reason

import (
	"bennu.example/push"
	"bennu.example/serializer"
)

// Payload is {"reason": text}.
func Payload(text string) serializer.Payload {
	p, err := serializer.Value(map[string]string{"reason": text}).Encoded()
	if err != nil {
		panic(err) // a string is always encoded
	}
	return p
}

// Reply is the error reply with that payload.
func Reply(text string) push.Reply {
	return push.Reply{Status: push.StatusError, Payload: Payload(text)}
}
