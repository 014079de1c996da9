package channel

import (
	"context"
	"errors"
	"sync"
	"time"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/fifo"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

const (
	maxGatherCalls = 256                   // calls of a collector at a time
	gatherReports  = 50 * time.Millisecond // between two reports of how many clients are asked
	gatherFirst    = time.Millisecond      // before the first of them
	gatherTries    = 3                     // attempts to send a report
)

// collector asks the clients of one node for call.Gather. The first channel that receives the
// question makes it, and attaches it to the broadcast, which all channels of the node share. Its
// goroutines end when all calls have ended, at the latest at the deadline. A call ends with its
// channel, too. The Shutdown of the handler whose channel has started a goroutine waits for it.
type collector struct {
	ps       *pubsub.PubSub
	q        channelhost.GatherQuestion
	deadline time.Time

	mu        sync.Mutex // only that of a Worker is taken under it; taken under the lock of the topic
	waiting   fifo.Queue[*Channel]
	workers   int
	asked     int
	answers   int
	reporting bool // a report of asked is due
	reported  bool // there was one
}

// gather takes part in a question to the clients of the topic, if this one answers the event. It
// runs during the delivery of the broadcast, and does not block.
func (c *Channel) gather(b *pubsub.Broadcast) {
	g, _ := b.Attach(func() any { return newCollector(c.up.PubSub(), b) }).(*collector)
	if g == nil || c.status() != serverJoined {
		return
	}
	e := c.ext.Load()
	if e == nil {
		return
	}
	if calls := e.calls.Load(); calls != nil && calls.has(g.q.Event) {
		g.add(c)
	}
}

// newCollector returns a *collector, or nil for a question that cannot be decoded.
func newCollector(ps *pubsub.PubSub, b *pubsub.Broadcast) any {
	g := &collector{ps: ps}
	if b.Payload.Decode(&g.q) != nil || g.q.MS <= 0 {
		return nil
	}
	g.deadline = time.Now().Add(time.Duration(g.q.MS) * time.Millisecond)
	return g
}

func (g *collector) add(c *Channel) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	g.waiting.Push(c)
	if g.workers < maxGatherCalls {
		end, ok := begin(c.up)
		if !ok {
			return
		}
		g.workers++
		go func() {
			defer end()
			g.work()
		}()
	}
	if g.reporting {
		return
	}
	end, ok := begin(c.up)
	if !ok {
		return
	}
	g.reporting = true
	wait := gatherReports
	if !g.reported {
		wait = gatherFirst
	}
	time.AfterFunc(wait, func() {
		defer end()
		g.reportAsked()
	})
}

// begin notes a goroutine for which the Shutdown of the channel's handler waits, until end is
// called. It reports false if it is too late for one.
func begin(up channelhost.Carrier) (end func(), ok bool) {
	w, ok := up.(channelhost.Worker)
	if !ok {
		return func() {}, true
	}
	return w.WorkEnded, w.WorkBegan()
}

func (g *collector) reportAsked() {
	g.mu.Lock()
	g.reporting, g.reported = false, true
	g.mu.Unlock()
	g.report(nil)
}

// work calls one client after the other.
func (g *collector) work() {
	ctx, cancel := context.WithDeadline(context.Background(), g.deadline)
	defer cancel()
	for c := g.next(); c != nil; c = g.next() {
		payload, err := c.call(ctx, g.q.Event, g.q.Payload)
		g.report(c.gathered(payload, err))
	}
}

// next returns the next channel to call. If it returns nil, the worker must end.
func (g *collector) next() *Channel {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.answers >= g.q.Max || !time.Now().Before(g.deadline) {
		g.waiting.Clear(0) // nobody waits for more
	}
	if g.waiting.Len() == 0 {
		g.workers--
		return nil
	}
	return g.waiting.Pop()
}

// gathered returns how a call has ended.
func (c *Channel) gathered(payload serializer.Payload, err error) *channelhost.GatherAnswer {
	a := &channelhost.GatherAnswer{Status: push.StatusOK}
	_, _, a.Socket = c.up.Identity()
	var refused *push.Error
	switch {
	case errors.As(err, &refused):
		a.Status, payload = refused.Status, refused.Payload
	case errors.Is(err, ErrClosed):
		a.Failure = channelhost.FailureClosed
	case errors.Is(err, context.DeadlineExceeded):
		a.Failure = channelhost.FailureTimeout
	case errors.Is(err, ErrTooManyCalls):
		a.Failure = channelhost.FailureTooMany
	case errors.Is(err, ErrNoHandler):
		a.Failure = channelhost.FailureNoHandler
	case err != nil:
		a.Failure = err.Error()
	}
	switch {
	case a.Failure != "":
		a.Status = ""
	case payload.IsBinary():
		a.Binary = payload.Bytes()
	default:
		a.Response = &payload
	}
	return a
}

// report sends a report to the node that asks. It tries again if the adapter has no room, for
// example. The asker does not wait for a report that is lost.
func (g *collector) report(a *channelhost.GatherAnswer) {
	g.mu.Lock()
	if a != nil && a.Failure == "" && a.Status == push.StatusOK {
		g.answers++
	}
	r := channelhost.GatherReport{Node: g.ps.Node(), Asked: g.asked, Answer: a}
	g.mu.Unlock()
	ctx, cancel := context.WithDeadline(context.Background(), g.deadline)
	defer cancel()
	for try := 1; ctx.Err() == nil; try++ {
		err := g.ps.Control().SendTo(ctx, g.q.Node, channelhost.GatherInbox+g.q.ID, channelhost.EventGather, r)
		if err == nil || try == gatherTries {
			return
		}
		time.Sleep(gatherReports)
	}
}

// checkCall is channelhost.CheckCall.
func checkCall(event string, payload any) (serializer.Payload, error) {
	if reserved(event) {
		return serializer.Payload{}, errReserved
	}
	body, err := callBody(payload)
	if err == nil {
		_, err = withCallID(body, 0).Encoded() // fails if it is not an object
	}
	return body, err
}
