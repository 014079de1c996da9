package socket

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/push"
	"bennu.example/serializer"
)

// clientVersion is the version in the params of the client's join of $socket.
const clientVersion = "bennu-go/" + Version

const (
	// clientTimeSoon and clientTimeLater are the pauses between the samples of the server's clock:
	// before the first clientTimeFirst of a connection, and before all others.
	clientTimeSoon  = time.Second
	clientTimeLater = 10 * time.Minute
	clientTimeFirst = 2
)

// clientOwn is the client's membership of $socket on the current connection. It is not a channel of
// the program: the client sends its messages between those of the channels. It belongs to the loop,
// except for info.
type clientOwn struct {
	joinRef uint64 // of the join. Zero means that there is none, or that it failed
	joined  bool
	timer   loop.Timer // of the join, and of the next sample
	sent    time.Time  // when the join or the last time was sent
	timeRef uint64     // of the time that has no reply yet, or zero
	times   int        // sent on this connection
	pushes  map[serializer.Ref]clientOwnPush

	info atomic.Pointer[Info]
}

// Info describes the connection, as the server did in its last reply to a join of $socket. Before
// that, and if the server does not have $socket, Info has only the ClientID, and Server is false.
func (c *Client) Info() Info { return *c.own.info.Load() }

// URL returns the address of the socket, as given to Dial or NewClient, without the values of its
// query and without a password.
func (c *Client) URL() string {
	u, err := url.Parse(c.url)
	if err != nil {
		address, _, _ := strings.Cut(c.url, "?")
		return address
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}

// joinOwn joins $socket on a new connection, before the channels join.
func (c *Client) joinOwn() {
	o := &c.own
	o.joinRef, o.joined, o.sent, o.timeRef, o.times = c.nextRef(), false, time.Now(), 0, 0
	o.pushes = nil
	c.conn.send(c.ownOut(o.joinRef, serializer.EventJoin, ownParams))
	c.loop.Arm(&o.timer, c.cfg.Timeout)
}

// ownParams are the params of the client's join.
var ownParams = socketParams{Version: clientVersion, Move: true}

// adoptOwn continues a join that was sent before the connection was used.
func (c *Client) adoptOwn(joinRef uint64, sent time.Time) {
	o := &c.own
	o.joinRef, o.joined, o.sent, o.timeRef, o.times = joinRef, false, sent, 0, 0
	o.pushes = nil
	c.loop.Arm(&o.timer, c.cfg.Timeout)
}

// ownOut returns a message of $socket.
func (c *Client) ownOut(ref uint64, event string, payload any) clientlink.Out {
	return ownOut(c.own.joinRef, ref, event, payload)
}

func ownOut(joinRef, ref uint64, event string, payload any) clientlink.Out {
	return clientlink.Out{Ref: ref, Msg: serializer.Message{
		JoinRef: clientRefText(joinRef), Ref: clientRefText(ref), Topic: topicSocket, Event: event,
		Payload: serializer.Value(payload),
	}}
}

// ownReceived handles a message of $socket. It returns false if the message is for a channel of the
// program.
func (c *Client) ownReceived(m *serializer.Message) bool {
	o := &c.own
	if o.joinRef == 0 || !m.JoinRef.IsNull() && m.JoinRef != clientRefText(o.joinRef) {
		return false
	}
	switch {
	case m.Kind == serializer.KindReply && m.Ref == clientRefText(o.joinRef):
		c.ownJoined(m)
	case m.Kind == serializer.KindReply && o.timeRef != 0 && m.Ref == clientRefText(o.timeRef):
		c.ownTime(m)
	case m.Kind == serializer.KindReply && o.answered(m):
	case m.Event == serializer.EventClose, m.Event == serializer.EventError:
		c.ownEnded()
	case m.Event == eventAdvice:
		c.advised(m)
	case o.joined:
		c.authEvent(m)
	}
	return true
}

// ownJoined handles the reply to the join.
func (c *Client) ownJoined(m *serializer.Message) {
	o := &c.own
	if o.joined {
		return
	}
	var r struct {
		socketReply
		Auth *clientGrant `json:"auth"`
	}
	isOK := m.Status == push.StatusOK
	if !isOK || m.Payload.Decode(&r) != nil || r.ID == "" {
		if isOK { // the server has a route that matches every topic
			c.conn.send(c.ownOut(c.nextRef(), serializer.EventLeave, nil))
		}
		c.ownMissing()
		return
	}
	o.joined = true
	o.info.Store(&Info{
		ConnectionID: r.ID, ClientID: r.Client, Version: r.Version, Server: true,
		Limits: Limits{
			Message: r.Limits.Message, Queue: r.Limits.Queue, Channels: r.Limits.Channels, Topic: r.Limits.Topic,
			Joins: r.Limits.Joins, Pushes: r.Limits.Pushes, Idle: time.Duration(r.Limits.IdleMS) * time.Millisecond,
		},
	})
	c.server.forget(clientTimeOld)
	c.server.add(o.sent, time.Now(), r.Now)
	c.loop.Arm(&o.timer, clientTimeSoon)
	c.authFeed(authInput{kind: authInTold, grant: r.Auth})
}

// ownMissing notes that the server has no $socket, or does not answer.
func (c *Client) ownMissing() {
	c.ownEnded()
	c.own.info.Store(&Info{ClientID: c.clientID})
}

// ownClosed ends the membership. The client does not join again on this connection.
func (c *Client) ownClosed() {
	o := &c.own
	c.loop.Disarm(&o.timer)
	o.joinRef, o.joined, o.timeRef, o.pushes = 0, false, 0, nil
}

// ownEnded ends the membership while the connection goes on.
func (c *Client) ownEnded() {
	c.ownClosed()
	c.authFeed(authInput{kind: authInMute})
}

// ownDue is the task of the timer: the join was not answered in time, or a sample is due.
func (c *Client) ownDue() {
	o := &c.own
	if o.joinRef == 0 || c.conn == nil {
		return
	}
	if !o.joined {
		c.cfg.Logger.Debug().Msg("server does not answer the join of $socket")
		c.ownMissing()
		return
	}
	c.askTime()
}

// askTime asks for the server's time, and arms the timer for the next time.
func (c *Client) askTime() {
	o := &c.own
	o.timeRef, o.sent = c.nextRef(), time.Now()
	c.conn.send(c.ownOut(o.timeRef, eventTime, nil))
	o.times++
	if o.times < clientTimeFirst {
		c.loop.Arm(&o.timer, clientTimeSoon)
	} else {
		c.loop.Arm(&o.timer, clientTimeLater)
	}
}

// ownTime handles the reply to a time.
func (c *Client) ownTime(m *serializer.Message) {
	o := &c.own
	o.timeRef = 0
	var r timeReply
	if m.Status == push.StatusOK && m.Payload.Decode(&r) == nil {
		c.server.add(o.sent, time.Now(), r.Now)
	}
}

// clientPing is a call of Ping.
type clientPing struct {
	done chan struct{}
	rtt  time.Duration
	err  error
}

// Ping sends a heartbeat, unless one is under way, and returns the time until its reply. It returns
// an error if there is no connection, if the connection is lost first, or if ctx ends first.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	p := &clientPing{done: make(chan struct{})}
	err := ErrClosed
	if c.post(clientTask(func() { c.ping(p) })) {
		select {
		case <-p.done:
			err = p.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return 0, fmt.Errorf("socket: ping: %w", err)
	}
	return p.rtt, nil
}

func (c *Client) ping(p *clientPing) {
	k := c.conn
	if k == nil {
		s := c.states.load()
		switch {
		case s.Wanted == WantClosed:
			p.err = ErrClosed
		case s.Wanted == WantPaused:
			p.err = ErrPaused
		case s.Cause != nil:
			p.err = fmt.Errorf("%s: %w", s.Status, s.Cause)
		default:
			p.err = fmt.Errorf("%s: %w", s.Status, push.ErrLost)
		}
		close(p.done)
		return
	}
	c.pings = append(c.pings, p)
	if h := &k.heartbeat; h.ref.IsNull() {
		c.sendHeartbeat(k)
		h.bytes, _ = k.t.Bytes()
		c.loop.Arm(&h.timer, h.timeout)
	}
}

// pinged ends the calls of Ping.
func (c *Client) pinged(rtt time.Duration, err error) {
	for _, p := range c.pings {
		p.rtt, p.err = rtt, err
		close(p.done)
	}
	c.pings = nil
}
