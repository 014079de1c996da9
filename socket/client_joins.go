package socket

import (
	"context"
	"time"

	"bennu.example/internal/clientlink"
)

// clientJoins is the default of ClientConfig.JoinConcurrency.
const clientJoins = 64

// Rejoin lets every channel join that waits for it: see [channel.Client.Rejoin]. Without a
// connection, the channels join with the next one.
func (c *Client) Rejoin() {
	c.post(clientTask(func() {
		for _, d := range c.channelList() {
			d.Rejoin()
		}
	}))
}

func (u clientSocket) Joins() *clientlink.JoinQueue { return u.joins }
func (u clientSocket) SendJoins()                   { u.sendJoins() }

// sendJoins sends the joins whose turn has come. It runs after each batch of the loop, so that the
// joins of one batch are in order.
func (c *Client) sendJoins() {
	if c.conn == nil || !c.joins.IsWaiting() {
		c.loop.Disarm(&c.joining)
		return
	}
	c.conn.hold()
	again := c.joins.Run(time.Now())
	c.conn.unhold()
	switch {
	case again.IsZero():
		c.loop.Disarm(&c.joining)
	case !c.joining.IsArmed() || !c.joining.Due().Equal(again):
		c.loop.Arm(&c.joining, time.Until(again))
	}
}

// startParams calls a params function on a new goroutine, and notes its end even if it ends the
// goroutine.
func (c *Client) startParams(j *clientlink.Join) (cancel func()) {
	ctx, cancel := context.WithCancel(c.ctx)
	c.goUser(func() {
		defer cancel()
		defer c.post(clientTask(func() { c.joins.Evaluated(j) }))
		j.Owner.Evaluate(ctx)
	})
	return cancel
}
