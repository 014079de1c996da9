package socket

import (
	"errors"
	"os"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// This file decides between WebSocket and long poll for TransportFallback. All of it runs on the
// loop.
//
// A WebSocket that opens and replies may still not work: some middleboxes cut it a moment later, or
// when a message is large. Therefore every loss of a WebSocket is assessed.

const (
	// clientShortLife is the time within which the loss of a WebSocket counts as a failure.
	clientShortLife = 10 * time.Second
	// clientBadConns is the number of failures in a row after which long poll is used.
	clientBadConns = 3
	// clientProbation is the time that a WebSocket must then hold to show that WebSockets work again.
	// Until then one failure is enough to return to long poll.
	clientProbation = time.Minute
	// clientProbeRare bounds the time between attempts to open a WebSocket where they do not last.
	clientProbeRare = time.Hour
	// clientLarge is the size from which a message counts as large.
	clientLarge = 8 << 10
	// clientMaxCheck bounds the size of the heartbeat that shows that large messages get through.
	clientMaxCheck = 1 << 20
)

// clientFallback is the experience with WebSockets on this network.
type clientFallback struct {
	failures     int           // WebSockets in a row that were lost soon, or with a large message under way
	check        clientCheck   // what the next WebSocket must pass in addition to one heartbeat
	until        time.Time     // long poll is tried first until then
	delay        time.Duration // between attempts to open a WebSocket; it doubles
	onProbation  bool          // the connection is a WebSocket that must hold for clientProbation
	isUnreliable bool          // since clientBadConns failures, no WebSocket has held for clientProbation
}

// clientCheck is a check that a WebSocket lasts. The zero value checks nothing.
type clientCheck struct {
	hold time.Duration // the time that it must stay open
	size int           // the size of a heartbeat that the server must then reply to
}

// assess decides whether the loss of a WebSocket counts as a failure. A close by the server with a
// code does not count.
func (c *Client) assess(k *clientConn, err error) {
	var closed *transport.CloseError
	if c.cfg.Transport != TransportFallback || k.name != clientWebSocket {
		return
	}
	d := &c.fallback
	life, large := time.Since(k.opened), k.largeUnderWay()
	isShort := life < clientShortLife || d.onProbation && life < clientProbation
	switch {
	case errors.As(err, &closed):
		d.failures = 0
	case large > 0, isShort, errors.Is(err, ErrHeartbeat), errors.Is(err, os.ErrDeadlineExceeded):
		d.failures++
		d.check.size = max(d.check.size, min(large, clientMaxCheck))
		if isShort && large == 0 {
			d.check.hold = max(d.check.hold, min(2*life, clientProbation), clientShortLife/2)
		}
		if d.failures >= clientBadConns || d.onProbation {
			c.cfg.Logger.Warn().Err(err).Int("connections", d.failures).Msg("connections do not last, trying long poll")
			d.failures, d.isUnreliable = 0, true
			d.until = time.Now().Add(max(d.delay, clientProbeFirst))
		}
	default:
		d.failures = 0
	}
	if d.onProbation = false; life >= clientProbation && d.failures == 0 && !d.until.After(time.Now()) {
		*d = clientFallback{}
	}
}

// noteFallback records which transport works.
func (c *Client) noteFallback(got dialResult) {
	if c.cfg.Transport != TransportFallback {
		return
	}
	d := &c.fallback
	if got.by == TransportWebSocket {
		d.until = time.Time{}
		if !d.isUnreliable {
			d.delay = 0
		}
		return
	}
	if got.webSocketErr != nil {
		c.cfg.Logger.Warn().Err(got.webSocketErr).Msg("long poll works, but WebSocket does not")
	}
	c.probeLater(0)
}

// probeLater schedules the next attempt to open a WebSocket. The delay doubles each time, and is at
// least the server's advice.
func (c *Client) probeLater(advice time.Duration) {
	d := &c.fallback
	most := clientProbeMost
	if d.isUnreliable {
		most = clientProbeRare
	}
	if d.delay == 0 {
		d.delay = clientProbeFirst
	} else {
		d.delay = min(2*d.delay, most)
	}
	wait := max(d.delay, advice)
	d.until = time.Now().Add(wait)
	c.loop.Arm(&c.probe, wait)
}

// probeDue tries to open a WebSocket while long poll is used. If one is open already, it has waited
// for a quiet moment long enough, and the client moves to it.
func (c *Client) probeDue() {
	if c.upgrade.conn != nil {
		c.moveToWebSocket()
		return
	}
	if c.conn == nil || c.conn.name != clientLongPoll || c.cancelProbe != nil {
		return
	}
	c.probes++
	id := c.probes
	c.cancelProbe = c.startAttempt([]ClientTransport{TransportWebSocket}, c.fallback.check, func(got dialResult) {
		c.probed(id, got)
	})
}

func (c *Client) probed(id uint64, got dialResult) {
	stale := id != c.probes || c.cancelProbe == nil
	if !stale {
		c.cancelProbe = nil
	}
	onLongPoll := c.conn != nil && c.conn.name == clientLongPoll
	switch {
	case got.conn != nil && (stale || !onLongPoll):
		c.newConn(got.conn, "").closeSoon(clientCodeNormal, "")
	case got.conn != nil:
		c.upgrade = got
		c.loop.Arm(&c.probe, clientMoveWait)
	case onLongPoll:
		c.probeLater(adviceOf(got.err))
	}
}

// moveIfQuiet moves to the open WebSocket if no push would be lost by that.
func (c *Client) moveIfQuiet() {
	if c.upgrade.conn != nil && c.unanswered == 0 {
		c.moveToWebSocket()
	}
}

func (c *Client) moveToWebSocket() {
	upgrade := c.takeUpgrade()
	c.drop(clientCodeNormal, "", c.leaveMessages(), func(d clientlink.Channel) { d.Closed(errMoved) })
	c.noteFallback(upgrade)
	c.opened(upgrade)
}

// noteLarge records the last large message.
func (k *clientConn) noteLarge(o *clientlink.Out) {
	if size := len(o.Msg.Payload.Bytes()); size >= clientLarge {
		k.largeRef, k.largeSize = o.Ref, size
	}
}

// replied handles a reply. The server reads messages in order, so a reply to the large message or
// to a later one shows that the large message was received.
func (k *clientConn) replied(m *serializer.Message) {
	if k.largeRef == 0 {
		return
	}
	if n, ok := clientRefNumber(m.Ref); ok && n >= k.largeRef {
		k.largeRef, k.largeSize = 0, 0
	}
}

// largeUnderWay returns the size of a large message that was sent and is not known to have been
// received, or that was received in part. Zero means that there is none.
func (k *clientConn) largeUnderWay() int {
	in, _ := k.t.Bytes()
	if part := in - min(in, k.framed.Load()); part >= clientLarge {
		return max(k.largeSize, int(min(part, clientMaxCheck)))
	}
	return k.largeSize
}

// takeUpgrade removes and returns the open WebSocket, if there is one.
func (c *Client) takeUpgrade() dialResult {
	upgrade := c.upgrade
	c.fallback.onProbation = upgrade.conn != nil && c.fallback.isUnreliable
	c.upgrade = dialResult{}
	c.loop.Disarm(&c.probe)
	return upgrade
}

func (c *Client) stopProbe() {
	c.loop.Disarm(&c.probe)
	if c.cancelProbe != nil {
		c.cancelProbe()
		c.cancelProbe = nil
	}
	if upgrade := c.takeUpgrade(); upgrade.conn != nil {
		c.newConn(upgrade.conn, "").closeSoon(clientCodeNormal, "")
	}
}
