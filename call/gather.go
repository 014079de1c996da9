package call

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/fifo"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

const (
	maxInbox      = 4 << 20 // bytes of reports that wait for the loop
	inboxOverhead = 64      // of each report
)

// GatherConfig bounds a [Gather].
type GatherConfig struct {
	Max     int           // answers after which it ends; zero means 1,000
	Quiet   time.Duration // it ends if nothing arrives for so long; zero means 2 s
	Timeout time.Duration // it ends after this time; zero means 10 s
}

// Answer is the answer of one client to [Gather].
type Answer struct {
	Socket  string // the id of the client's connection, as in socket.Info
	Node    string // the name of its node
	Payload serializer.Payload
	Asked   int // the clients that were asked so far, by the nodes that have reported
}

// Gather calls all clients of a topic, on all nodes, and yields their answers as they arrive. It
// calls those clients that have a handler for the event: see [channel.Client.Handle]. The payload
// must be an object; nil means an empty one. Each loop over the sequence asks once more.
//
// A client that fails is yielded with an error, as of [channel.Channel.Call]: a *push.Error if it
// answered with another status than "ok", or one that wraps [channel.ErrClosed],
// [channel.ErrTooManyCalls] or context.DeadlineExceeded. A [*channel.OverflowError] takes the place
// of answers that did not fit, because 4 MiB waited for the loop. Any other error is yielded with
// the zero Answer: the event or the payload cannot be sent, or the broadcast failed, perhaps on
// some nodes only.
//
// Gather ends after Max answers, when nothing has arrived for Quiet, at Timeout, when ctx ends, and
// when the loop ends. It ends early if all clients that were asked have answered and no node has
// reported more for a quarter of Quiet. A node that fails, or that the adapter does not reach, is
// not known: its clients are missing, and are not part of Asked.
//
// A node calls 256 clients at a time. Clients receive an event as by Channel.Call and nothing else.
// The question is not recorded.
func Gather(
	ctx context.Context, ps *pubsub.PubSub, topic, event string, payload any, cfg GatherConfig,
) iter.Seq2[Answer, error] {
	cfg.Max = cmp.Or(cfg.Max, 1000)
	cfg.Quiet = cmp.Or(cfg.Quiet, 2*time.Second)
	cfg.Timeout = cmp.Or(cfg.Timeout, 10*time.Second)
	return func(yield func(Answer, error) bool) {
		g := &gathering{topic: topic, event: event, cfg: cfg, asked: make(map[string]int)}
		g.inbox.wake = make(chan struct{}, 1)
		ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
		defer cancel()
		body, err := channelhost.CheckCall(event, payload)
		if err != nil {
			yield(Answer{}, g.failure(err))
			return
		}
		if ctx.Err() != nil {
			return
		}
		id := newID()
		defer ps.Control().Subscribe(channelhost.GatherInbox+id, &g.inbox).Cancel()
		if err := g.ask(ctx, ps, id, body); err != nil && !yield(Answer{}, g.failure(err)) {
			return
		}
		g.run(ctx, yield)
	}
}

// newID returns 128 random bits.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	return hex.EncodeToString(id[:])
}

// gathering is one loop over the sequence of Gather.
type gathering struct {
	topic, event string
	cfg          GatherConfig
	inbox        inbox

	asked   map[string]int // by each node
	total   int            // the sum of asked
	ended   int            // calls, those whose reports were dropped included
	answers int            // those with status ok
}

func (g *gathering) failure(err error) error {
	return fmt.Errorf("call: gather %s on %s: %w", g.event, g.topic, err)
}

// ask sends the question to all nodes.
func (g *gathering) ask(ctx context.Context, ps *pubsub.PubSub, id string, body serializer.Payload) error {
	left := g.cfg.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	q := channelhost.GatherQuestion{
		ID: id, Node: ps.Node(), Event: g.event, Payload: body, MS: max(1, left.Milliseconds()), Max: g.cfg.Max,
	}
	return ps.Control().BroadcastUnrecorded(ctx, g.topic, channelhost.EventGather, q)
}

// run yields what arrives.
func (g *gathering) run(ctx context.Context, yield func(Answer, error) bool) {
	timer := time.NewTimer(g.cfg.Quiet)
	defer timer.Stop()
	for g.answers < g.cfg.Max && ctx.Err() == nil {
		report, dropped, ok := g.inbox.take()
		switch {
		case dropped > 0:
			g.ended += dropped
			if !yield(Answer{Asked: g.total}, g.failure(&channel.OverflowError{Topic: g.topic, Dropped: dropped})) {
				return
			}
			continue
		case ok:
			if !g.handle(report, yield) {
				return
			}
			continue
		}
		wait := g.cfg.Quiet
		if g.total > 0 && g.ended >= g.total {
			wait /= 4
		}
		timer.Reset(wait)
		select {
		case <-g.inbox.wake:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// handle handles a report, and yields the answer that it has. It reports false if the loop has
// ended.
func (g *gathering) handle(p serializer.Payload, yield func(Answer, error) bool) bool {
	var r channelhost.GatherReport
	if p.Decode(&r) != nil {
		return true // of another version
	}
	if more := r.Asked - g.asked[r.Node]; more > 0 {
		g.asked[r.Node] = r.Asked
		g.total += more
	}
	if r.Answer == nil {
		return true
	}
	g.ended++
	answer := Answer{Socket: r.Answer.Socket, Node: r.Node, Asked: g.total}
	payload, err := result(r.Answer)
	if err != nil {
		return yield(answer, g.failure(err))
	}
	g.answers++
	answer.Payload = payload
	return yield(answer, nil)
}

// result returns the payload or the error of a call.
func result(a *channelhost.GatherAnswer) (p serializer.Payload, err error) {
	switch a.Failure {
	case "":
	case channelhost.FailureClosed:
		return p, channel.ErrClosed
	case channelhost.FailureTimeout:
		return p, context.DeadlineExceeded
	case channelhost.FailureTooMany:
		return p, channel.ErrTooManyCalls
	case channelhost.FailureNoHandler:
		return p, channel.ErrNoHandler
	default:
		return p, errors.New(a.Failure)
	}
	switch {
	case a.Binary != nil:
		p = serializer.Binary(a.Binary)
	case a.Response != nil:
		p = *a.Response
	}
	if a.Status != push.StatusOK {
		return serializer.Payload{}, &push.Error{Status: a.Status, Payload: p}
	}
	return p, nil
}

// inbox is the reports that wait for the loop. It is the subscriber of the reports.
type inbox struct {
	wake chan struct{} // receives when something has arrived

	mu      sync.Mutex
	reports fifo.Queue[serializer.Payload]
	bytes   int
	dropped int
}

// Deliver is part of pubsub.Subscriber.
func (in *inbox) Deliver(b *pubsub.Broadcast) error {
	in.mu.Lock()
	if size := len(b.Payload.Bytes()) + inboxOverhead; in.bytes > 0 && in.bytes+size > maxInbox {
		in.dropped++
	} else {
		in.reports.Push(b.Payload)
		in.bytes += size
	}
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
	return nil
}

// take returns the next report. The number of those that were dropped comes after all before them.
func (in *inbox) take() (report serializer.Payload, dropped int, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.reports.Len() == 0 {
		dropped, in.dropped = in.dropped, 0
		return report, dropped, false
	}
	report = in.reports.Pop()
	in.bytes -= len(report.Bytes()) + inboxOverhead
	return report, 0, true
}
