package promise

import "bennu.example/serializer"

// Reason returns {"reason": text}, the payload of Phoenix's own error replies. It is encoded once,
// however often it is sent.
func Reason(text string) serializer.Payload {
	p, err := serializer.Value(map[string]string{"reason": text}).Encoded()
	if err != nil {
		panic(err) // encoding a string never fails
	}
	return p
}
