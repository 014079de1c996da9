package socket

import (
	"context"

	"bennu.example/transport"
)

// NewClientOver is NewClient with a connection of the test's own.
func NewClientOver(cfg *ClientConfig, dial func() transport.ClientConn) *Client {
	c := NewClient("ws://peer.test/socket", cfg)
	c.dial = func(context.Context, ClientTransport, transport.ClientConfig) (transport.ClientConn, error) {
		return dial(), nil
	}
	return c
}
