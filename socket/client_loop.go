package socket

import (
	"errors"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// The functions of this file run on the client's loop. The loop owns all state that is not guarded
// by a lock: the connection and the attempts to make one, the channels by topic, and the timers.

// clientItem is an item of the loop: a task, or a message that was received on a connection.
type clientItem struct {
	task loop.Task
	conn *clientConn
	msg  serializer.Message
}

type clientTask func()

func (t clientTask) Run() { t() }

func (c *Client) run(it clientItem) {
	if it.task != nil {
		it.task.Run()
		return
	}
	c.msg = it.msg // a copy that all messages share, so that passing its address does not allocate
	switch it.conn {
	case c.conn:
		c.received(&c.msg)
	case c.move.conn:
		c.moveReceived(&c.msg)
	}
	c.msg = serializer.Message{}
}

// afterBatch runs when the loop has handled a batch of items.
func (c *Client) afterBatch() {
	c.sendJoins()
	c.moveIfQuiet()
	c.moveIfReady()
	c.settle()
	c.watchProgress()
	c.sendProgress()
}

// setWanted implements Connect and Pause.
func (c *Client) setWanted(w Wanted) {
	if c.ended || c.wanted == WantClosed {
		return
	}
	c.wanted = w
	switch {
	case w == WantConnected && c.conn == nil && c.cancelDial == nil:
		c.connectNow()
	case w == WantPaused:
		c.pause(clientCodeNormal, "")
	}
}

// setState changes the state and notifies its watchers.
func (c *Client) setState(change func(*State), last bool) {
	c.states.set(func(s State) (State, bool) {
		return s.next(func(s *State) {
			s.Wanted = c.wanted
			change(s)
		})
	}, last)
}

// isWanted reports whether the client should reconnect. It should while Close waits for replies.
func (c *Client) isWanted() bool {
	return !c.ended && (c.wanted == WantConnected || c.wanted == WantClosed && len(c.flushes) > 0)
}

// connect starts an attempt.
func (c *Client) connect() {
	c.dials++
	id := c.dials
	c.clock.redial = false
	c.watchClock()
	c.setState(func(s *State) { s.Status, s.Until, s.Transport = StatusConnecting, time.Time{}, "" }, false)
	c.cancelDial = c.startAttempt(c.order(), clientCheck{}, func(got dialResult) { c.dialed(id, got) })
}

// order returns the transports to try, in order.
func (c *Client) order() []ClientTransport {
	switch c.cfg.Transport {
	case TransportLongPoll:
		return []ClientTransport{TransportLongPoll}
	case TransportFallback:
		if time.Now().Before(c.fallback.until) {
			return []ClientTransport{TransportLongPoll, TransportWebSocket}
		}
		return []ClientTransport{TransportWebSocket, TransportLongPoll}
	}
	return []ClientTransport{TransportWebSocket}
}

// dialed handles the result of an attempt. If the attempt was canceled, it closes the connection.
func (c *Client) dialed(id uint64, got dialResult) {
	if id != c.dials || c.cancelDial == nil {
		if got.conn != nil {
			c.newConn(got.conn, "").closeSoon(clientCodeNormal, "")
		}
		return
	}
	c.cancelDial = nil
	if got.conn == nil {
		if isRefusal(got.err) {
			got.err = c.refusedBy(got.err)
			c.authFeed(authInput{kind: authInRefused, call: got.auth.call, err: got.err, isLast: !c.canChange(got.auth.call)})
		}
		if c.takeRedial(got.err) {
			c.connect()
			return
		}
		c.failed++
		c.cfg.Logger.Info().Err(got.err).Int("tries", c.failed).Msg("client connect failed")
		for _, d := range c.channelList() {
			d.Closed(got.err)
		}
		c.retryAfter(got.err)
		return
	}
	c.noteFallback(got)
	c.opened(got)
}

// opened starts to use a new connection.
func (c *Client) opened(got dialResult) {
	c.stopMove()
	c.use(c.startConn(got), &got.auth, func() {
		if !c.cfg.NoSocketChannel {
			c.joinOwn()
		}
	})
}

// startConn starts to read from a new connection.
func (c *Client) startConn(got dialResult) *clientConn {
	k := c.newConn(got.conn, got.name())
	c.goroutines.Add()
	go k.read()
	return k
}

// use makes k, which was opened with a token, the current connection. It calls joinOwn before the
// channels join.
func (c *Client) use(k *clientConn, auth *authSource, joinOwn func()) {
	c.conn = k
	c.connections.Add(1)
	c.failed, c.denials = 0, 0
	c.advice = clientAdvice{}
	c.current.Store(k)
	c.heartbeatLater(&k.heartbeat)
	c.cfg.Logger.Info().Str("transport", k.name).Msg("client connected")
	c.setState(func(s *State) {
		s.Status, s.Until, s.Tries, s.Cause, s.Transport = StatusConnected, time.Time{}, 0, nil, k.name
	}, false)
	k.hold()
	c.authFeed(authInput{kind: authInOpened, token: auth.token, call: auth.call})
	if c.cfg.NoSocketChannel {
		c.authFeed(authInput{kind: authInMute})
	}
	joinOwn()
	c.joins.Opened()
	for _, d := range c.channelList() {
		d.Opened()
	}
	c.sendJoins()
	k.unhold()
}

// lost handles the unexpected end of a connection.
func (c *Client) lost(k *clientConn, err error) {
	if k != c.conn {
		if k == c.move.conn {
			c.moveFailed(err)
		}
		return
	}
	if k.writeErr != nil && errors.Is(err, transport.ErrClosed) {
		err = k.writeErr
	}
	c.cfg.Logger.Info().Err(err).Str("transport", k.name).Msg("client connection lost")
	if time.Since(k.opened) >= clientStable {
		c.backoff = 0
	}
	c.assess(k, err)
	if denied := deniedByCode(err); denied != nil {
		c.authFeed(authInput{kind: authInDenied, err: denied})
		return
	}
	code, reason := 0, ""
	if errors.Is(err, ErrHeartbeat) {
		code, reason = clientCodeNormal, "heartbeat timeout"
	}
	if c.takeMove(code, reason, nil, err) {
		return
	}
	if ended := c.authEnd(err); ended != nil {
		c.authFeed(authInput{kind: authInDenied, err: ended})
		return
	}
	c.stopMove()
	c.drop(code, reason, nil, func(d clientlink.Channel) { d.Closed(err) })
	if upgrade := c.takeUpgrade(); upgrade.conn != nil {
		c.noteFallback(upgrade)
		c.opened(upgrade)
		return
	}
	var closed *transport.CloseError
	if c.cfg.StayAfter1000 && errors.As(err, &closed) && closed.Code == clientCodeNormal {
		c.setOffline(StatusFailed, err, time.Time{})
		return
	}
	c.retryAfter(err)
}

// disconnect ends the connection or the attempt, and calls notify for each channel.
func (c *Client) disconnect(code int, reason string, notify func(clientlink.Channel)) {
	c.loop.Disarm(&c.retry)
	if c.cancelDial != nil {
		c.cancelDial()
		c.cancelDial = nil
	}
	c.stopProbe()
	c.stopMove()
	c.advice = clientAdvice{}
	if c.conn != nil {
		c.drop(code, reason, c.leaveMessages(), notify)
		return
	}
	for _, d := range c.channelList() {
		notify(d)
	}
}

// leaveMessages returns the messages that leave all channels, and $socket, of a long-poll session
// that is about to be closed. Without them the server would keep the channels and their presences
// until the session times out. phoenix.js does not send them.
func (c *Client) leaveMessages() (list []clientlink.Out) {
	if c.conn.name != clientLongPoll {
		return nil
	}
	for _, d := range c.channelList() {
		if o, ok := d.LeaveMessage(); ok {
			list = append(list, o)
		}
	}
	if c.own.joinRef != 0 { // a server that shuts down does not wait for this client then
		list = append(list, c.ownOut(c.nextRef(), serializer.EventLeave, nil))
	}
	return list
}

// drop ends the connection after it has written the last messages. It returns unsent messages to
// their channels, and then calls notify for each channel.
func (c *Client) drop(code int, reason string, last []clientlink.Out, notify func(clientlink.Channel)) {
	k := c.conn
	c.conn = nil
	c.current.Store(nil)
	c.barrier = ""
	c.loop.Disarm(&c.settling)
	in, out := k.t.Bytes()
	c.bytesIn.Add(in)
	c.bytesOut.Add(out)
	c.loop.Disarm(&k.heartbeat.timer)
	c.loop.Disarm(&k.grace)
	c.loop.Disarm(&c.probe)
	c.ownClosed()
	c.authFeed(authInput{kind: authInLost})
	c.pinged(0, push.ErrLost)
	unsent := k.end(last)
	k.closeSoon(code, reason)
	for i := range unsent {
		if o := &unsent[i]; o.From != nil {
			o.From.Unsent(o)
		} else {
			o.Release()
		}
	}
	for _, d := range c.channelList() {
		notify(d)
	}
}

// retryAfter decides whether and when to reconnect after an error.
func (c *Client) retryAfter(err error) {
	if !c.isWanted() {
		c.setOffline(StatusDisconnected, err, time.Time{})
		return
	}
	status := StatusWaiting
	var d, advised time.Duration
	switch {
	case errors.Is(err, transport.ErrURL):
		c.setOffline(StatusFailed, err, time.Time{})
		return
	case isRefusal(err):
		if !c.canChange(nil) {
			c.setOffline(StatusDenied, err, time.Time{})
			return
		}
		c.denials++
		status, d = StatusDenied, c.cfg.DeniedAfter(c.denials)
	default:
		advised = c.takeAdvice()
		r := newRetry(c.backoff+1, err)
		d = c.reconnectDelay(r, advised)
		advised = max(advised, r.Advice)
	}
	if d < 0 {
		c.setOffline(StatusFailed, err, time.Time{})
		return
	}
	c.clock.notBefore = c.clock.wall().Add(advised)
	c.loop.Arm(&c.retry, d)
	c.setOffline(status, err, time.Now().Add(d))
}

// canChange reports whether the next attempt may send other parameters or another token than that
// of k, a call that was refused, or nil.
func (c *Client) canChange(k *authCall) bool {
	s := &c.auth.s
	_, next, fetches := s.attempt()
	return isParamsFunc(c.cfg.Params) || next != nil && next != k || s.refreshes && (fetches || !s.loggedOut)
}

// setOffline sets the status of a client without a connection. If the client will not reconnect and
// is being closed, Close stops waiting for replies.
func (c *Client) setOffline(s Status, err error, until time.Time) {
	c.setState(func(st *State) {
		st.Status, st.Cause, st.Until, st.Tries, st.Transport = s, err, until, c.failed, ""
	}, false)
	if until.IsZero() {
		c.stopAuthIfIdle()
		c.forgetIfDenied(s, err)
	}
	if until.IsZero() && c.wanted == WantClosed {
		c.flushed(true)
	}
}

// retryDue is the task of the retry timer.
func (c *Client) retryDue() {
	if c.isWanted() && c.conn == nil && c.cancelDial == nil {
		c.backoff++
		c.connect()
	}
}

// received handles a message of the connection.
func (c *Client) received(m *serializer.Message) {
	if m.Kind == serializer.KindReply {
		c.conn.replied(m)
	}
	if h := &c.conn.heartbeat; m.Kind == serializer.KindReply && !h.ref.IsNull() && m.Ref == h.ref {
		rtt := time.Since(h.sent)
		c.rtt.Store(int64(rtt))
		c.pinged(rtt, nil)
		h.ref = ""
		c.heartbeatLater(h)
		return
	}
	if m.Kind == serializer.KindReply && !c.barrier.IsNull() && m.Ref == c.barrier {
		c.settleSoon()
		return
	}
	if m.Topic == topicSocket && c.ownReceived(m) {
		return
	}
	list := c.topics[m.Topic]
	switch len(list) {
	case 0:
		c.cfg.Logger.Debug().Str("topic", m.Topic).Str("event", m.Event).Msg("message of an unknown channel dropped")
	case 1:
		list[0].Receive(m)
	default:
		for _, d := range append([]clientlink.Channel(nil), list...) {
			d.Receive(m)
		}
	}
}

// heartbeatLater schedules the next heartbeat, unless there are none.
func (c *Client) heartbeatLater(h *clientHeartbeat) {
	if c.cfg.HeartbeatInterval < 0 {
		c.loop.Disarm(&h.timer)
		return
	}
	c.loop.Arm(&h.timer, c.cfg.HeartbeatInterval)
}

// heartbeatDue sends a heartbeat. If the last one has no reply, it gives up the connection.
func (c *Client) heartbeatDue(k *clientConn) {
	if k != c.conn || c.overslept(&k.heartbeat.timer) {
		return
	}
	h := &k.heartbeat
	in, _ := k.t.Bytes()
	switch {
	case h.ref.IsNull():
		c.sendHeartbeat(k)
	case in != h.bytes && h.patience > 0: // bytes arrive: the reply may be behind a large message
		h.patience--
	default:
		c.lost(k, ErrHeartbeat)
		return
	}
	h.bytes = in
	c.loop.Arm(&h.timer, h.timeout)
}

func (c *Client) sendHeartbeat(k *clientConn) {
	h := &k.heartbeat
	ref := c.nextRef()
	h.ref, h.sent = clientRefText(ref), time.Now()
	h.patience, h.timeout = clientHeartbeatGrace, c.cfg.HeartbeatTimeout
	k.send(heartbeatOut(ref))
}

func heartbeatOut(ref uint64) clientlink.Out {
	return clientlink.Out{Ref: ref, Msg: serializer.Message{
		Ref: clientRefText(ref), Topic: serializer.TopicPhoenix, Event: serializer.EventHeartbeat,
	}}
}

// end closes the connection and all channels, and stops the loop.
func (c *Client) end() {
	if c.ended {
		return
	}
	c.ended = true
	c.disconnect(clientCodeNormal, c.cfg.CloseReason, func(d clientlink.Channel) { d.End(ErrClosed) })
	if c.outbox != nil {
		c.outbox.End(ErrClosed)
	}
	c.cancel()
	c.flushed(true)
	c.stopAuth(ErrClosed)
	c.auth.states.set(func(s AuthState) (AuthState, bool) { return s, false }, true)
	c.loop.Disarm(&c.progress.timer)
	c.notifyProgress(true)
	c.endProgress()
	c.wanted = WantClosed
	c.setState(func(s *State) { s.Status, s.Until, s.Transport = StatusDisconnected, time.Time{}, "" }, true)
	c.changes.End()
	c.loop.Stop()
}

// channelList returns the channels in the order in which they were joined.
func (c *Client) channelList() []clientlink.Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]clientlink.Channel(nil), c.channels...)
}
