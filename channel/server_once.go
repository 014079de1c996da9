package channel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

const (
	memberID    = "$id"
	memberOnce  = "$once"
	maxOnceBody = 64 << 10 // bytes of a reply that is recorded

	defaultOnceWindow = 10 * time.Minute
	onceLease         = 30 * time.Second
	onceRenewal       = 10 * time.Second
	onceStoreTime     = 5 * time.Second // for one operation of the store

	maxOnceWaiting = 16 // pushes of a channel that wait for the reply of another run
	firstOncePoll  = 50 * time.Millisecond
	maxOncePoll    = time.Second
)

var (
	replyInvalidID = errorReply("invalid id")
	replyManyIDs   = errorReply("too many ids")
	replyNoStore   = errorReply("unavailable")
	replyOnceDone  = push.OK(map[string]string{memberOnce: "done"})
)

// Once handles pushes that a client may send again, such as those of Client.PushDurable, once. A
// push has the member "$id" in its payload, which is 1 to 64 letters, digits, "-" and "_". A push
// of the same client with the same topic, event and id is not handled again: it gets the reply of
// the first one. The callback does not see the "$id"; [Channel.PushID] returns it. Without events,
// Once applies to all of them. A push without "$id" is handled as always.
//
// The client is the pair of Request.ID and the connect parameter $client. If it has neither, the
// ids of a connection are its own.
//
// Only replies of the callback are recorded, so middleware (see [Use]) is called for every push.
// They are sent after they were recorded. Error replies are recorded, too. If the callback crashes,
// or if the channel ends before a callback that returned push.NoReply has called [Channel.Reply],
// a push that is sent again is handled again. While a push is being handled, others with its id
// wait outside of the mailbox.
//
// A callback has one effect for each id within OnceConfig.Window, and at most two if the process
// dies between the effect and the record of the reply. To rule that out, make the PushID a key of
// the database.
//
// Of each client and topic the newest 1,000 ids are known. So a client must not send a push again
// after it has got the replies to 1,000 later ones of its topic. The outbox of the Go client sends
// in order, and has 8 pushes of a topic without a reply at most.
//
// Three more replies are possible: reason "invalid id", "too many ids" if 1,000 pushes are being
// handled, and "unavailable" if the store fails. A reply of more than 64 KiB is repeated as
// {"$once": "done"}.
func Once[S any](cfg push.OnceConfig, events ...string) Option[S] {
	return Option[S]{func(h *Handler) {
		if h.once != nil {
			panic("channel: two Once options")
		}
		h.once = newOnce(cfg, events)
	}}
}

// PushID returns the "$id" of the message that is being handled, if [Once] applies to it. Otherwise
// it is empty.
func (c *Channel) PushID() string {
	if c.h.once == nil {
		return ""
	}
	return c.h.once.pushID(c)
}

// once is what Once adds to a handler.
//
// A push with an id is a run from the Begin of the store to Finish or Release. Whoever takes the
// run out of the table makes that call: the callback's return, Channel.Reply, or the channel's end.
// mu is never held over a call of the store or of a channel.
type once struct {
	store  push.OnceStore
	window time.Duration
	events map[string]struct{} // nil means all
	node   string              // the first part of holders
	last   atomic.Uint64       // the second part of the last one

	mu       sync.Mutex
	channels map[*Channel]*onceChannel // those that have had an id
	running  map[string]*onceRun       // by key
}

// onceChannel is what a channel needs from its first push with an id to its end.
type onceChannel struct {
	current *onceRun                    // of the callback that runs
	runs    map[serializer.Ref]*onceRun // that were not answered
	waiting int
	work    sync.WaitGroup // goroutines that renew leases, and those that wait for other runs
}

// onceRun is one push with an id that is being handled.
type onceRun struct {
	id, key, holder string
	ref             serializer.Ref
	taken           bool // somebody finishes or releases it
	renewal         *time.Timer
	done            chan struct{} // closed when it is finished or released
}

func newOnce(cfg push.OnceConfig, events []string) *once {
	if cfg.Window <= 0 {
		cfg.Window = defaultOnceWindow
	}
	if cfg.Store == nil {
		cfg.Store = push.NewOnceMemory(0)
	}
	o := &once{
		store: cfg.Store, window: cfg.Window, node: rand.Text(),
		channels: make(map[*Channel]*onceChannel), running: make(map[string]*onceRun),
	}
	for _, event := range events {
		if o.events == nil {
			o.events = make(map[string]struct{})
		}
		o.events[event] = struct{}{}
	}
	return o
}

// check panics if an event of Once has no callback.
func (o *once) check(h *Handler) {
	for event := range o.events {
		if h.events[event] == nil && h.any == nil {
			panic(fmt.Sprintf("channel: Once for event %q, which has no callback", event))
		}
	}
}

// wrap returns a Func that calls next for pushes that were not handled.
func (o *once) wrap(next Func) Func {
	return func(ctx context.Context, c *Channel, event string, p serializer.Payload) (push.Reply, error) {
		if !mayHave(p, memberID) || !o.applies(event) {
			return next(ctx, c, event, p)
		}
		value, rest, found := p.Cut(memberID)
		if !found {
			return next(ctx, c, event, p)
		}
		var id string
		if value.Decode(&id) != nil || !promise.IsID(id) {
			return replyInvalidID, nil //nolint:nilerr // the client's mistake
		}
		m := oncePush{c: c, event: event, payload: p, ref: c.Ref().ref, id: id}
		m.key = onceKey(c, event, id)
		return o.handle(ctx, &m, func() (push.Reply, error) { return next(ctx, c, event, rest) })
	}
}

func (o *once) applies(event string) bool {
	_, ok := o.events[event]
	return ok || o.events == nil
}

// oncePush is a push with an id.
type oncePush struct {
	c       *Channel
	event   string
	payload serializer.Payload // with the id
	ref     serializer.Ref
	id, key string
}

// handle calls next, unless the push was or is being handled.
func (o *once) handle(ctx context.Context, m *oncePush, next func() (push.Reply, error)) (push.Reply, error) {
	in, ok := o.enter(m.c)
	if !ok {
		return push.NoReply, ErrClosed
	}
	holder := o.newHolder()
	mine, recorded, err := o.begin(ctx, m.key, holder)
	switch {
	case err != nil:
		return o.failure(m.c, err), nil
	case mine:
		run := &onceRun{id: m.id, key: m.key, holder: holder, ref: m.ref, done: make(chan struct{})}
		return o.perform(ctx, m, in, run, next)
	case recorded != nil:
		return decodeOnce(recorded), nil
	case m.ref.IsNull(): // nobody waits for a reply
		return push.NoReply, nil
	case !o.await(ctx, m, in):
		return replyManyIDs, nil
	}
	return push.NoReply, nil
}

func (o *once) newHolder() string { return o.node + strconv.FormatUint(o.last.Add(1), 36) }

// failure returns the reply for an error of the store.
func (o *once) failure(c *Channel, err error) push.Reply {
	if errors.Is(err, push.ErrTooManyIDs) {
		return replyManyIDs
	}
	c.up.Log(c.driver(), "store of Once failed", err)
	return replyNoStore
}

// perform calls the callback, and finishes or releases the run unless the reply follows later.
func (o *once) perform(
	ctx context.Context, m *oncePush, in *onceChannel, run *onceRun, next func() (push.Reply, error),
) (reply push.Reply, err error) {
	if before := o.start(ctx, m.c, in, run); before != nil {
		o.release(ctx, m.c, before)
	}
	settled := false
	defer func() {
		o.leave(in)
		if !settled && o.take(in, run) { // a panic, the end of the goroutine, or no reply
			o.release(ctx, m.c, run)
		}
	}()
	reply, err = next()
	answer, final := onceAnswer(reply, err)
	switch {
	case final:
		if body, failed := encodeOnce(answer); failed == nil && o.take(in, run) {
			if counts := o.finish(ctx, m.c, run, answer, body); !reply.IsZero() {
				reply = counts
			}
			settled = true
		}
	case err == nil && run.ref.IsNull(): // there is no reply
		if body, failed := encodeOnce(replyOnceDone); failed == nil && o.take(in, run) {
			o.finish(ctx, m.c, run, replyOnceDone, body)
		}
	case err == nil: // Channel.Reply was called, or will be
		settled = true
	}
	return reply, err
}

// onceAnswer returns the reply that the results of a callback stand for. It reports false if there
// is none, or if the client is to send the push again.
func onceAnswer(reply push.Reply, err error) (answer push.Reply, final bool) {
	if !reply.IsZero() {
		return reply, !replacesReply(err)
	}
	var invalid *payloadError
	switch {
	case err == nil, errors.Is(err, ErrStop):
		return push.NoReply, false
	case errors.As(err, &invalid):
		return replyInvalid, true
	}
	return asRejection(err)
}

// answer is called by Channel.Reply. It records the reply to a run and returns the one that counts.
func (o *once) answer(c *Channel, ref serializer.Ref, reply push.Reply) push.Reply {
	o.mu.Lock()
	in := o.channels[c]
	var run *onceRun
	if in != nil {
		run = in.runs[ref]
	}
	o.mu.Unlock()
	if run == nil {
		return reply
	}
	body, err := encodeOnce(reply)
	if err != nil || !o.take(in, run) {
		return reply // the former is an error of Channel.Reply, and the run goes on
	}
	return o.finish(context.Background(), c, run, reply, body)
}
