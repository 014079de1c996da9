package socket

import (
	"errors"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// What runs on the client's loop, which owns all the state that is not guarded by a lock: what is wanted, the connection and the attempts to
// make one, the channels by topic, the timers.

// clientItem is what is posted to the loop: a task, or a message that a connection brought.
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
	if it.conn == c.conn && c.conn != nil {
		c.msg = it.msg // whose address may be handed on without an allocation for each
		c.received(&c.msg)
		c.msg = serializer.Message{}
	}
}

// rested runs when the loop has nothing to do for now.
func (c *Client) rested() {
	c.moveIfQuiet()
	c.settle()
	c.watchProgress()
}

// want is Connect, Pause and Close.
func (c *Client) want(w Wanted) {
	if c.ended || c.wanted == WantClosed {
		return
	}
	c.wanted = w
	switch {
	case w == WantConnected && c.conn == nil && c.cancelDial == nil:
		c.backoff, c.failed, c.denials = 0, 0, 0
		c.loop.Disarm(&c.retry)
		c.connect()
	case w == WantPaused:
		c.disconnect(func(d clientlink.Channel) { d.Closed(ErrPaused) })
		c.rest(StatusDisconnected, nil, time.Time{})
	}
}

// setState changes the state and tells of it, with what is wanted.
func (c *Client) setState(change func(*State), last bool) {
	c.states.set(func(s *State) {
		s.Wanted = c.wanted
		change(s)
	}, last)
}

// isWanted reports whether a lost connection is to be made again. While Close flushes it is.
func (c *Client) isWanted() bool {
	return !c.ended && (c.wanted == WantConnected || c.wanted == WantClosed && len(c.flushes) > 0)
}

// connect makes an attempt.
func (c *Client) connect() {
	c.dials++
	id := c.dials
	c.watchClock()
	c.setState(func(s *State) { s.Status, s.Until, s.Transport = StatusConnecting, time.Time{}, "" }, false)
	c.cancelDial = c.attemptLater(c.order(), clientProof{}, func(got clientDialed) { c.dialed(id, got) })
}

// order is the transports to try, the first first.
func (c *Client) order() []ClientTransport {
	switch c.cfg.Transport {
	case TransportLongPoll:
		return []ClientTransport{TransportLongPoll}
	case TransportFallback:
		if time.Now().Before(c.doubt.until) {
			return []ClientTransport{TransportLongPoll, TransportWebSocket}
		}
		return []ClientTransport{TransportWebSocket, TransportLongPoll}
	}
	return []ClientTransport{TransportWebSocket}
}

// dialed takes what came of an attempt. One that was called off meanwhile is closed.
func (c *Client) dialed(id uint64, got clientDialed) {
	if id != c.dials || c.cancelDial == nil {
		if got.conn != nil {
			c.newConn(got.conn, "").shut(clientCodeNormal, "")
		}
		return
	}
	c.cancelDial = nil
	if got.conn == nil {
		c.failed++
		c.cfg.Logger.Info().Err(got.err).Int("tries", c.failed).Msg("socket: cannot connect")
		for _, d := range c.downs() {
			d.Closed(got.err)
		}
		c.retryAfter(got.err)
		return
	}
	c.noteFallback(got)
	c.opened(got)
}

// opened takes a new connection.
func (c *Client) opened(got clientDialed) {
	k := c.newConn(got.conn, got.name())
	c.conn = k
	c.connections.Add(1)
	c.failed, c.denials = 0, 0
	c.current.Store(k)
	c.goroutines.Add()
	go k.read()
	c.loop.Arm(&k.heartbeat.timer, c.cfg.HeartbeatInterval)
	c.cfg.Logger.Info().Str("transport", k.name).Msg("socket: connected")
	c.setState(func(s *State) {
		s.Status, s.Until, s.Tries, s.Cause, s.Transport = StatusConnected, time.Time{}, 0, nil, k.name
	}, false)
	for _, d := range c.downs() {
		d.Opened()
	}
}

// lost takes the end of a connection that was not wished for.
func (c *Client) lost(k *clientConn, err error) {
	if k != c.conn {
		return
	}
	if k.writeErr != nil && errors.Is(err, transport.ErrClosed) {
		err = k.writeErr
	}
	c.cfg.Logger.Info().Err(err).Str("transport", k.name).Msg("socket: connection lost")
	if time.Since(k.opened) >= clientStable {
		c.backoff = 0
	}
	c.judge(k, err)
	code, reason := 0, ""
	if errors.Is(err, ErrHeartbeat) {
		code, reason = clientCodeNormal, "heartbeat timeout"
	}
	c.drop(code, reason, nil, func(d clientlink.Channel) { d.Closed(err) })
	if better := c.takeBetter(); better.conn != nil {
		c.noteFallback(better)
		c.opened(better)
		return
	}
	var closed *transport.CloseError
	if c.cfg.StayAfter1000 && errors.As(err, &closed) && closed.Code == clientCodeNormal {
		c.rest(StatusFailed, err, time.Time{})
		return
	}
	c.retryAfter(err)
}

// disconnect ends whatever there is, because it is wished for, and tells the channels.
func (c *Client) disconnect(tell func(clientlink.Channel)) {
	c.loop.Disarm(&c.retry)
	if c.cancelDial != nil {
		c.cancelDial()
		c.cancelDial = nil
	}
	c.stopProbe()
	if c.conn != nil {
		c.drop(clientCodeNormal, "", c.farewells(), tell)
		return
	}
	for _, d := range c.downs() {
		tell(d)
	}
}

// farewells are the messages that leave the channels of a long-poll session that is about to be closed. Without them the server
// would keep the channels, and what presence tracks of them, until the session times out. (phoenix.js does not send them.)
func (c *Client) farewells() (list []clientlink.Out) {
	if c.conn.name != clientLongPoll {
		return nil
	}
	for _, d := range c.downs() {
		if o, ok := d.Farewell(); ok {
			list = append(list, o)
		}
	}
	return list
}

// drop ends the connection after the given messages, gives what was not sent back to the channels, and notifies them with tell.
func (c *Client) drop(code int, reason string, last []clientlink.Out, tell func(clientlink.Channel)) {
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
	unsent := k.end(last)
	k.shut(code, reason)
	for i := range unsent {
		if o := &unsent[i]; o.From != nil {
			o.From.Unsent(o)
		} else {
			o.Release()
		}
	}
	for _, d := range c.downs() {
		tell(d)
	}
}

// retryAfter decides what becomes of a client whose connection was lost or could not be made, and when.
func (c *Client) retryAfter(err error) {
	if !c.isWanted() {
		c.rest(StatusDisconnected, err, time.Time{})
		return
	}
	status := StatusWaiting
	var d time.Duration
	switch {
	case errors.Is(err, transport.ErrURL):
		c.rest(StatusFailed, err, time.Time{})
		return
	case isRefusal(err):
		if !c.canChange() {
			c.rest(StatusDenied, err, time.Time{})
			return
		}
		c.denials++
		status, d = StatusDenied, c.cfg.DeniedAfter(c.denials)
	default:
		d = c.reconnectDelay(newRetry(c.backoff+1, err))
	}
	if d < 0 {
		c.rest(StatusFailed, err, time.Time{})
		return
	}
	c.loop.Arm(&c.retry, d)
	c.rest(status, err, time.Now().Add(d))
}

// canChange reports whether the next attempt may send something else than the last.
func (c *Client) canChange() bool {
	return isParamsFunc(c.cfg.Params) || c.cfg.AuthTokenFunc != nil
}

// rest sets the status of a client without a connection. If it is not to get one by itself then nobody waits for a flush any more.
func (c *Client) rest(s Status, err error, until time.Time) {
	c.setState(func(st *State) { st.Status, st.Cause, st.Until, st.Tries, st.Transport = s, err, until, c.failed, "" }, false)
	if until.IsZero() && c.wanted == WantClosed {
		c.flushed(true)
	}
}

// retryDue is the retry timer's.
func (c *Client) retryDue() {
	if c.isWanted() && c.conn == nil && c.cancelDial == nil {
		c.backoff++
		c.connect()
	}
}

// received takes a message of the connection.
func (c *Client) received(m *serializer.Message) {
	if m.Kind == serializer.KindReply {
		c.conn.replied(m)
	}
	if h := &c.conn.heartbeat; m.Kind == serializer.KindReply && !h.ref.IsNull() && m.Ref == h.ref {
		c.rtt.Store(int64(time.Since(h.sent)))
		h.ref = ""
		c.loop.Arm(&h.timer, c.cfg.HeartbeatInterval)
		return
	}
	if m.Kind == serializer.KindReply && !c.barrier.IsNull() && m.Ref == c.barrier {
		c.settleSoon()
		return
	}
	list := c.topics[m.Topic]
	switch len(list) {
	case 0:
		c.cfg.Logger.Debug().Str("topic", m.Topic).Str("event", m.Event).Msg("socket: dropped: no such channel")
	case 1:
		list[0].Receive(m)
	default:
		for _, d := range append([]clientlink.Channel(nil), list...) {
			d.Receive(m)
		}
	}
}

// heartbeatDue sends a heartbeat, or gives the connection up that has not answered the last.
func (c *Client) heartbeatDue(k *clientConn) {
	if k != c.conn {
		return
	}
	h := &k.heartbeat
	in, _ := k.t.Bytes()
	switch {
	case h.ref.IsNull():
		c.sendHeartbeat(k)
	case in != h.bytes && h.patience > 0: // something large is in the way of the answer
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

// end is the end of the loop's work.
func (c *Client) end() {
	if c.ended {
		return
	}
	c.ended = true
	c.disconnect(func(d clientlink.Channel) { d.End(ErrClosed) })
	c.cancel()
	c.flushed(true)
	c.loop.Disarm(&c.progress.timer)
	c.tellProgress(true)
	c.wanted = WantClosed
	c.setState(func(s *State) { s.Status, s.Until, s.Transport = StatusDisconnected, time.Time{}, "" }, true)
	c.loop.Stop()
}

// downs are the channels that the client has now, in the order in which they were joined.
func (c *Client) downs() []clientlink.Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]clientlink.Channel(nil), c.channels...)
}
