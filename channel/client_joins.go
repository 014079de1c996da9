package channel

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/serializer"
)

// clientJoinPause is the time until a join is sent again that the server has refused because of its
// rate.
const clientJoinPause = time.Second

// Priority sets the priority of the channel's joins, from -100 to 100; other values are clamped.
// Zero is the default. Of the joins that wait, those with a higher priority are sent first, and
// within one priority those of the channel whose first Join was called earlier. A join whose params
// function takes more than 1 s lets others pass. Priority must be called before Join, and returns
// the channel.
func (c *Client) Priority(n int) *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lives > 0 {
		panic("channel: Priority was called after Join")
	}
	c.priority = int8(min(max(n, -100), 100))
	return c
}

// SetParams sets the params of the next join, and of those that follow: any value that
// socket.Client.Channel accepts. A join that was sent, or whose params function was called, is not
// affected. If the value cannot be encoded, SetParams returns an error, and the params stay as they
// were.
func (c *Client) SetParams(params any) error {
	p := newClientParams(params)
	if p.err != nil {
		return fmt.Errorf("channel: %w", p.err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.params = p
	return nil
}

// Rejoin lets an errored channel join now, without waiting for RejoinAfter. If
// socket.ClientConfig.ManualRejoin is set, it is the only way to join again, and also lets a
// channel join whose Join was called without a connection. Without a connection, the channel joins
// with the next one. Rejoin has no effect on a channel that is joined, leaving or closed.
func (c *Client) Rejoin() { c.socket.Post((*clientRejoinTask)(c)) }

type clientRejoinTask Client

var _ loop.Task = (*clientRejoinTask)(nil)

func (t *clientRejoinTask) Run() { clientChannel{(*Client)(t)}.Rejoin() }

// clientParams are the params of joins.
type clientParams struct {
	f     func(context.Context) (any, error) // nil means fixed
	fixed serializer.Payload
	err   error // of fixed
}

func newClientParams(params any) (p clientParams) {
	switch v := params.(type) {
	case func(context.Context) (any, error):
		p.f = v
	default:
		if v != nil && reflect.TypeOf(v).Kind() == reflect.Func {
			p.err = fmt.Errorf("params: %w: %T is not a func(context.Context) (any, error)", serializer.ErrPayload, v)
			break
		}
		p.fixed, p.err = serializer.Value(v).Encoded()
	}
	return p
}

// clientTurn is a join in the socket's queue.
type clientTurn struct {
	clientlink.Join
	c       *Client
	attempt uint64
	params  func(context.Context) (any, error)
	payload serializer.Payload
	err     error
}

// enterQueue puts the current join into the socket's queue.
func (c *Client) enterQueue(attempt uint64) {
	c.leaveQueue()
	c.mu.Lock()
	p := c.params
	c.mu.Unlock()
	if p.err != nil {
		c.feed(clientInput{kind: inParams, attempt: attempt, err: p.err})
		return
	}
	t := &clientTurn{c: c, attempt: attempt, params: p.f, payload: p.fixed}
	t.Join = clientlink.Join{Owner: t, Priority: c.priority, Number: c.number, IsFunc: p.f != nil}
	c.turn = t
	c.socket.Joins().Enter(&t.Join)
}

// leaveQueue takes the current join out of the queue, if it is there.
func (c *Client) leaveQueue() {
	if t := c.turn; t != nil {
		c.turn = nil
		c.socket.Joins().Leave(&t.Join)
	}
}

// Evaluate is part of clientlink.Joiner.
func (t *clientTurn) Evaluate(ctx context.Context) {
	t.err = fmt.Errorf("params: %w", clientlink.ErrExited) // unless the function returns
	v, err := t.params(ctx)
	if err == nil {
		t.payload, err = serializer.Value(v).Encoded()
	}
	if t.err = err; err != nil {
		t.err = fmt.Errorf("params: %w", err)
	}
}

// Evaluated is part of clientlink.Joiner. A join without params fails at once.
func (t *clientTurn) Evaluated() {
	if t.err != nil {
		t.Send()
	}
	t.c.updateWaiting()
}

// Send is part of clientlink.Joiner.
func (t *clientTurn) Send() {
	c := t.c
	c.feed(clientInput{kind: inParams, attempt: t.attempt, payload: t.payload, err: t.err})
	if c.turn == t && c.state.joinRef == 0 { // nothing was sent
		c.leaveQueue()
	}
}

// clientWait is what a channel waits for: see ClientStats.
type clientWait uint32

const (
	waitNothing clientWait = iota
	waitConnection
	waitAuth
	waitParams
	waitTurn
	waitReply
	waitRejoin
)

func (w clientWait) String() string {
	return [...]string{"", "connection", "auth", "params", "turn", "reply", "rejoin"}[w]
}

// updateWaiting publishes what the channel waits for. It is called on the loop.
func (c *Client) updateWaiting() {
	w := waitTurn
	switch s := &c.state; {
	case s.status != StateJoining && s.status != StateErrored:
		w = waitNothing
	case s.isHeld:
		w = waitRejoin
	case !s.open:
		w = waitConnection
	case s.status == StateErrored:
		w = waitRejoin
	case s.waitsForAuth():
		w = waitAuth
	case s.joinRef != 0:
		w = waitReply
	case c.turn != nil && !c.turn.IsReady():
		w = waitParams
	}
	c.waiting.Store(uint32(w))
}

// The rest of this file is the part of clientStep about joins that wait.

// pauseJoin handles a join that the server refused because of its rate. The attempt has not failed:
// the join is sent again.
func (m *clientMachine) pauseJoin() {
	m.joinRef, m.isPaused = 0, true
	m.add(clientOutput{kind: outNoParams})
	m.add(clientOutput{kind: outArm, timer: timerRejoin})
}

// endPause ends the pause of a join that will not be sent.
func (m *clientMachine) endPause() {
	if m.isPaused {
		m.isPaused = false
		m.add(clientOutput{kind: outDisarm, timer: timerRejoin})
	}
}

// rejoin handles the end of the time until the next join.
func (m *clientMachine) rejoin() {
	switch {
	case m.isPaused:
		m.isPaused = false
		m.requestParams()
	case m.status == StateErrored && m.open:
		m.tries++
		m.begin()
	}
}

// rejoinCalled handles a call of Rejoin. Without a connection it only notes that the channel may
// join with the next one.
func (m *clientMachine) rejoinCalled() {
	wasHeld := m.isHeld
	m.isHeld = false
	switch {
	case m.status == StateErrored && m.open:
		m.add(clientOutput{kind: outDisarm, timer: timerRejoin})
		m.tries++
		m.begin()
	case m.status == StateJoining && wasHeld:
		m.requestParams()
	}
}
