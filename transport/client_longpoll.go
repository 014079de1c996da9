package transport

import (
	"context"
	"errors"
)

// DialLongPoll opens a long-poll session. The context bounds the opening request only. The error is, by errors.As, a
// *HandshakeError if the server answered anything but a session.
func DialLongPoll(ctx context.Context, cfg ClientConfig) (ClientConn, error) {
	return nil, errors.New("transport: not yet")
}
