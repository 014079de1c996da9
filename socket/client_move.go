package socket

import (
	"errors"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// This file moves the client to another connection before the server closes the current one. The
// current connection serves until the other one is open and has answered the join of $socket. Then
// the channels join again there. All of it runs on the loop.

const (
	// clientMoveEarly bounds the messages that a connection may receive before it is used. There is
	// the reply to one join, and few events of $socket.
	clientMoveEarly = 16
	// clientMovePause is the least time between two attempts of one move.
	clientMovePause = 100 * time.Millisecond
)

var (
	// errAdvised is the cause if the client moved to another connection.
	errAdvised = errors.New("moved to another connection because the server asked for it")

	errMoveUnanswered = errors.New("server does not answer the join of $socket")
	errMoveFlooded    = errors.New("server sends too much before the first join")
)

// clientMove is a move to another connection. The zero value is none.
type clientMove struct {
	until  time.Time // when the current connection ends; zero means that there is no move
	last   time.Time // when the last attempt began
	tries  int
	id     uint64 // of the attempt
	cancel func() // cancels the attempt that is under way

	conn    *clientConn // the other connection, once it is open
	got     dialResult
	joinRef uint64               // of its join of $socket
	sent    time.Time            // when that was sent
	isReady bool                 // that was answered
	early   []serializer.Message // received on it so far
}

// beginMove begins a move within the given time, unless one is under way. A server cannot make the
// client open connections fast: it waits until the current connection is stable, and from one move
// to the next.
func (c *Client) beginMove(within time.Duration) {
	m := &c.move
	if !m.until.IsZero() || c.wanted != WantConnected {
		return
	}
	m.until, m.tries = time.Now().Add(within), 0
	first := c.conn.opened
	if m.last.After(first) {
		first = m.last
	}
	c.loop.Arm(&c.moving, max(time.Until(first.Add(clientStable)), 0))
}

// moveDue is the task of the timer: it is time for the next attempt, the reply to the join is late,
// or the move cannot wait any longer.
func (c *Client) moveDue() {
	m := &c.move
	switch {
	case m.until.IsZero() || c.wanted != WantConnected || m.cancel != nil:
	case m.conn == nil:
		m.id++
		id := m.id
		m.last = time.Now()
		m.cancel = c.startAttempt(c.order(), clientCheck{}, func(got dialResult) { c.moveDialed(id, got) })
	case m.isReady:
		c.moveNow()
	default:
		c.moveFailed(errMoveUnanswered)
	}
}

// moveDialed handles the result of an attempt.
func (c *Client) moveDialed(id uint64, got dialResult) {
	m := &c.move
	if id != m.id || m.cancel == nil {
		if got.conn != nil {
			c.newConn(got.conn, "").closeSoon(clientCodeNormal, "")
		}
		return
	}
	m.cancel = nil
	if got.conn == nil {
		c.moveFailed(got.err)
		return
	}
	m.got, m.conn = got, c.startConn(got)
	m.joinRef, m.sent = c.nextRef(), time.Now()
	m.conn.send(ownOut(m.joinRef, m.joinRef, serializer.EventJoin, ownParams))
	c.loop.Arm(&c.moving, c.cfg.Timeout)
}

// moveReceived keeps a message of the other connection until that is used.
func (c *Client) moveReceived(msg *serializer.Message) {
	m := &c.move
	if len(m.early) == clientMoveEarly {
		c.moveFailed(errMoveFlooded)
		return
	}
	m.early = append(m.early, *msg)
	if msg.Kind == serializer.KindReply && msg.Topic == topicSocket && msg.Ref == clientRefText(m.joinRef) {
		m.isReady = true // whatever the answer: a server without $socket serves the channels, too
		c.loop.Arm(&c.moving, max(time.Until(m.until), 0))
	}
}

// moveFailed handles a failed attempt. The current connection serves until its end.
func (c *Client) moveFailed(err error) {
	m := &c.move
	c.closeMove()
	m.tries++
	d := c.reconnectDelay(newRetry(m.tries, err), 0)
	gaveUp := isRefusal(err) || deniedByCode(err) != nil || errors.Is(err, transport.ErrURL) || d < 0
	d = max(d, clientMovePause)
	gaveUp = gaveUp || !time.Now().Add(d).Before(m.until)
	c.cfg.Logger.Info().Err(err).Int("tries", m.tries).Bool("gave_up", gaveUp).Msg("client cannot move")
	if gaveUp {
		c.stopMove()
		return
	}
	c.loop.Arm(&c.moving, d)
}

// closeMove closes the other connection, if it is open.
func (c *Client) closeMove() {
	m := &c.move
	if m.conn == nil {
		return
	}
	m.conn.end(nil)
	m.conn.closeSoon(clientCodeNormal, "")
	m.conn, m.got, m.isReady, m.early = nil, dialResult{}, false, nil
}

// stopMove ends the move, if there is one.
func (c *Client) stopMove() {
	m := &c.move
	c.closeMove()
	if m.cancel != nil {
		m.cancel()
	}
	c.loop.Disarm(&c.moving)
	*m = clientMove{last: m.last, id: m.id}
}

// moveIfReady moves once no push would be lost by that.
func (c *Client) moveIfReady() {
	if m := &c.move; m.isReady && c.unanswered == 0 && c.wanted == WantConnected {
		c.moveNow()
	}
}

// moveNow replaces the current connection by the other one.
func (c *Client) moveNow() {
	c.stopProbe()
	c.takeMove(clientCodeNormal, "", c.leaveMessages(), errAdvised)
}

// takeMove ends the current connection and uses the other one, if it is open. Otherwise it returns
// false.
func (c *Client) takeMove(code int, reason string, last []clientlink.Out, cause error) bool {
	m := c.move
	if m.conn == nil {
		return false
	}
	c.move.conn = nil // so that it is not closed
	c.stopMove()
	c.drop(code, reason, last, func(d clientlink.Channel) { d.Closed(cause) })
	c.noteFallback(m.got)
	c.use(m.conn, &m.got.auth, func() { c.adoptOwn(m.joinRef, m.sent) })
	for i := range m.early {
		c.received(&m.early[i])
	}
	return true
}
