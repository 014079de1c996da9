package socket

import (
	"errors"
	"fmt"
	"time"

	"bennu.example/internal/clientlink"
)

// errReconnect is the cause of what ends because of Reconnect.
var errReconnect = errors.New("connection closed by Reconnect")

// Disconnect is Pause with a close code and a reason for the server, such as 4000 and "idle". The
// code is 1000 or one of 3000 to 4999; Disconnect returns an error for any other, and does nothing.
// A reason of more than 123 bytes is cut. Long poll has neither.
func (c *Client) Disconnect(code int, reason string) error {
	return c.closeWith(code, func() { c.pause(code, reason) })
}

// Reconnect closes the connection as Disconnect does, and connects again at once, as Connect does.
// It also ends a pause.
func (c *Client) Reconnect(code int, reason string) error {
	return c.closeWith(code, func() {
		c.wanted = WantConnected
		c.disconnect(code, reason, func(d clientlink.Channel) { d.Closed(errReconnect) })
		c.connectNow()
	})
}

// closeWith runs f on the loop, unless the client is closed or may not send that code.
func (c *Client) closeWith(code int, f func()) error {
	if code != clientCodeNormal && (code < 3000 || code > 4999) {
		return fmt.Errorf("socket: close code %d is not 1000 or between 3000 and 4999", code)
	}
	isPosted := c.closing() == nil && c.post(clientTask(func() {
		if !c.ended && c.wanted != WantClosed {
			f()
		}
	}))
	if !isPosted {
		return fmt.Errorf("socket: %w", ErrClosed)
	}
	return nil
}

// pause ends the connection or the attempt until Connect is called.
func (c *Client) pause(code int, reason string) {
	c.wanted = WantPaused
	c.disconnect(code, reason, func(d clientlink.Channel) { d.Closed(ErrPaused) })
	c.setOffline(StatusDisconnected, nil, time.Time{})
}

// connectNow starts an attempt whose failure is the first one.
func (c *Client) connectNow() {
	c.backoff, c.failed, c.denials = 0, 0, 0
	c.loop.Disarm(&c.retry)
	c.authFeed(authInput{kind: authInConnect})
	c.connect()
}
