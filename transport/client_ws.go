package transport

import (
	"context"
	"errors"
)

// DialWebSocket opens a WebSocket. The context bounds the handshake only. The error is, by errors.As, a *HandshakeError if the
// server answered anything but a WebSocket.
func DialWebSocket(ctx context.Context, cfg ClientConfig) (ClientConn, error) {
	return nil, errors.New("transport: not yet")
}
