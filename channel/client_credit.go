package channel

import (
	"sync/atomic"

	"bennu.example/internal/loop"
	"bennu.example/serializer"
)

// Credit asks the server to send at most n events that were not handled: their callbacks have not
// returned, or a stream that wants them has not returned them. The client adds credit whenever half
// of n was handled. So a program that is slow holds up a server that can wait, and nothing is
// dropped. After a rejoin the server has a credit of n again. Presence takes no credit.
//
// When the server has finished the stream ([Channel.Finish]), streams end with io.EOF, or with a
// *RemoteError before that if it gave a reason. Callbacks receive the event "$end" with that error.
//
// N is from 1 to 1,000,000. Credit must be called before Join, and returns the channel. The params
// of the join must be an object. Servers without credit, such as Phoenix, ignore it, and so does a
// client without the channel $socket: see socket.ClientConfig.NoSocketChannel.
func (c *Client) Credit(n int) *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lives > 0 {
		panic("channel: Credit was called after Join")
	}
	if n < 1 || n > maxCredit {
		panic("channel: Credit is not between 1 and 1,000,000")
	}
	c.credit = &clientCredit{n: int64(n), step: int64(max(n/2, 1))}
	return c
}

// clientCredit is the credit that a client's channel gives the server.
type clientCredit struct {
	n, step int64
	left    atomic.Int64 // the credit that the server has; changed by the loop
	posted  atomic.Bool  // a task to add credit is in the loop
}

// creditParams returns the params of a join with the credit.
func (c *Client) creditParams(params serializer.Payload) serializer.Payload {
	if c.credit == nil {
		return params
	}
	if wanted, _ := c.socket.Own(); !wanted {
		return params
	}
	c.credit.left.Store(c.credit.n)
	return params.With(memberCredit, c.credit.n)
}

// spendCredit notes an event that has taken credit, or the end of the stream. It is called on the
// loop.
func (c *Client) spendCredit(m *serializer.Message) {
	switch {
	case takesCredit(m.Event):
		c.credit.left.Add(-1)
	case m.Event == eventEnd:
		c.endStreams(m)
	}
}

// due returns the credit to add. An event that waits in several queues counts in each, which delays
// credit and never adds too much.
func (e *clientEvents) due(cr *clientCredit) int64 {
	waiting, _ := e.backlog.Load()
	e.mu.Lock()
	for i := range e.streams {
		waiting += e.streams[i].queue.Stats().Count
	}
	e.mu.Unlock()
	return max((cr.n-cr.left.Load()-int64(waiting))/cr.step*cr.step, 0)
}

// creditDue lets the loop add credit if enough was handled.
func (c *Client) creditDue() {
	if cr := c.credit; cr != nil && c.events.due(cr) > 0 && !cr.posted.Swap(true) {
		c.socket.Post((*clientCreditTask)(c)) // a closed socket needs no credit
	}
}

// clientCreditTask adds credit, if the channel is joined.
type clientCreditTask Client

var _ loop.Task = (*clientCreditTask)(nil)

func (t *clientCreditTask) Run() {
	c := (*Client)(t)
	c.credit.posted.Store(false)
	c.addCredit()
}

func (c *Client) addCredit() {
	cr := c.credit
	if cr == nil || c.state.status != StateJoined {
		return
	}
	if _, joined := c.socket.Own(); !joined {
		return
	}
	if n := c.events.due(cr); n > 0 {
		cr.left.Add(n)
		c.sendExtension(eventCredit, serializer.Value(map[string]int64{"add": n}), nil, 0)
	}
}

// endStreams ends the streams because the server has sent $end.
func (c *Client) endStreams(m *serializer.Message) {
	var end struct{ Error serializer.Payload }
	var err error
	if m.Payload.Decode(&end) == nil && !end.Error.IsZero() {
		err = &RemoteError{m.Event, end.Error}
	}
	e := &c.events
	e.mu.Lock()
	streams := e.streams
	e.mu.Unlock()
	for _, s := range streams {
		s.queue.End(err)
	}
}
