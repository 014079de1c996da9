package channel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// Channel is one client's membership of one topic. It begins with a join and ends once. The
// callbacks of its Handler run one at a time, in order. Its methods may be called from any
// goroutine, even after its end, and never block, except that the broadcast of a recorded event
// waits for the log (see pubsub.NewRecorded), and Reply for the store of [Once].
type Channel struct {
	// The join_refs are those of Phoenix. The reply to the join, phx_close and phx_error carry
	// joinRef; pushes and all other replies carry pushRef. A reply about a topic that is not joined
	// carries the join_ref of its message, or null if it is "unmatched topic".
	up      channelhost.Carrier
	h       *Handler
	topic   string
	pushRef serializer.Ref                // joinRef, or the join's ref if that is null
	data    any                           // a pointer to the handler's S
	grant   *valuesContext                // nil without values of a grant; replaced under mu, see setValues
	made    atomic.Pointer[cancelContext] // nil until it is needed, see channelContext
	ext     atomic.Pointer[extension]     // Nil means that nothing of it is needed.
	mailbox mailbox.Mailbox[item]

	handling       atomic.Bool   // a message of the client is handled, or one that such a message caused
	sending        atomic.Int32  // broadcasts of its own that are being delivered
	published      atomic.Uint32 // state.status, for those who do not hold mu
	state          serverState   // guarded by mu
	warned         bool          // a payload did not fit its callback; owned by the callbacks' goroutine
	noJoinRef      bool          // joinRef is null; does not change
	warnedReserved bool          // a reserved event was pushed; owned by the callbacks' goroutine
	unsendable     atomic.Bool   // the client's version cannot carry a record, which was or will be logged

	sub       *pubsub.Subscription // to the topic; owned by the callbacks' goroutine
	answering sync.Mutex           // held while the join subscribes and is answered

	mu    sync.Mutex  // guards state and what follows; see server_driver.go for the order of locks
	ref   Ref         // of the message that is being handled; of the join until that was answered
	join  *serverJoin // Nil means that nothing is to be kept of the join.
	onEnd *endFunc    // the last one that OnEnd registered
	rare  *rarePart   // nil until it is needed
	held  *heldDiffs  // diffs that wait for a reply. Nil means that they need not wait.
}

// endFunc is a function that OnEnd registered.
type endFunc struct {
	f      func()
	before *endFunc // the one that was registered before
}

// rarePart is what few channels need. It is guarded by mu.
type rarePart struct {
	injected sync.WaitGroup // waits for other goroutines that perform outputs
	others   map[*pubsub.Subscription]struct{}
}

// ensureRare returns the rare part, and makes it if there is none. The caller holds mu.
func (c *Channel) ensureRare() *rarePart {
	if c.rare == nil {
		c.rare = new(rarePart)
	}
	return c.rare
}

// joinRef is the join_ref as the client sent it, which may be null.
func (c *Channel) joinRef() serializer.Ref {
	if c.noJoinRef {
		return ""
	}
	return c.pushRef
}

// status is the stage that the channel has reached.
func (c *Channel) status() serverStatus { return serverStatus(c.published.Load()) }

// Ref identifies a message of the client, so that it can be answered later: Phoenix's socket_ref.
// The zero Ref identifies none.
type Ref struct{ ref serializer.Ref }

// Topic is the topic that the client joined.
func (c *Channel) Topic() string { return c.topic }

// Context is the context of the channel's callbacks. It changes with the grant of the connection:
// see socket.Auth.
func (c *Channel) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.context()
}

// Push sends an event to this client only. The payload is a Go value or a serializer.Payload. Nil
// means an empty object.
//
// The error wraps ErrNotJoined, ErrClosed or serializer.ErrPayload. A client of version 2.0.0
// accepts only objects and binary, one of 1.0.0 no binary. A nil error does not mean that the
// client received the event. An event that begins with "$" is an error too, because it is reserved.
func (c *Channel) Push(event string, payload any) error {
	err := c.open()
	if err == nil && isExtension(event) {
		err = errReserved
	}
	if err == nil && !c.takeFor(event) {
		err = ErrNoCredit
	}
	if err != nil {
		return fmt.Errorf("channel: push %s to %s: %w", event, c.topic, err)
	}
	f, err := serializer.Encode(c.up.Serializer(), &serializer.Message{
		Kind: serializer.KindPush, JoinRef: c.pushRef, Topic: c.topic, Event: event, Payload: serializer.Value(payload),
	})
	if err == nil {
		how := c.h.deliveryOfPush(c.topic, event, payload)
		how.Caused = c.handling.Load()
		if p := c.past(); p != nil {
			p.pushes.Add(1)
		}
		err = c.send(f, how)
	}
	if err != nil {
		return fmt.Errorf("channel: push %s to %s: %w", event, c.topic, err)
	}
	return nil
}

// Broadcast sends an event to everyone on the topic, on all nodes, this client included. Its errors
// are those of pubsub.PubSub.Broadcast and of Push.
//
// A reserved event (see [OnAny]) is an error too, because its name may come from a client. Server
// code that intends to broadcast a presence_diff of its own calls pubsub.PubSub.Broadcast.
func (c *Channel) Broadcast(event string, payload any) error { return c.broadcast(nil, event, payload) }

// BroadcastFrom is Broadcast to all except this channel. Other channels of the same user receive
// the event.
func (c *Channel) BroadcastFrom(event string, payload any) error {
	return c.broadcast((*subscriber)(c), event, payload)
}

func (c *Channel) broadcast(from pubsub.Subscriber, event string, payload any) error {
	err := c.open()
	if err == nil && reserved(event) {
		err = errReserved
	}
	if err != nil {
		return fmt.Errorf("channel: broadcast %s to %s: %w", event, c.topic, err)
	}
	c.sending.Add(1)
	defer c.sending.Add(-1)
	return c.up.PubSub().BroadcastFrom(c.broadcastContext(), from, c.topic, event, payload)
}

// Ref returns the message that is being handled, for Reply. Outside of an event's callback, and for
// a message without a ref, it returns the zero Ref.
func (c *Channel) Ref() Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.status.isBeforeJoin() { // a join is answered by the result of its callback only
		return Ref{}
	}
	return c.ref
}

// Reply answers the message that ref identifies, now or later, from any goroutine. The client uses
// the first reply and ignores others. The error wraps ErrNoRef, or is one of those of Push.
func (c *Channel) Reply(ref Ref, r push.Reply) error {
	err := c.open()
	if err == nil && ref.ref.IsNull() {
		err = ErrNoRef
	}
	if err == nil {
		if c.h.once != nil {
			r = c.h.once.answer(c, ref.ref, r)
		}
		err = c.reply(ref.ref, r, transport.Delivery{})
	}
	if err == nil {
		c.mu.Lock()
		if c.ref == ref {
			c.sendHeld()
		}
		c.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("channel: reply on %s: %w", c.topic, err)
	}
	return nil
}

// Send sends a message to the channel's own Info callbacks, from any goroutine. It is handled after
// the messages that are in the mailbox already. The error is ErrFull itself, or wraps ErrClosed.
func (c *Channel) Send(msg any) error {
	switch err := c.enqueue(item{kind: itemInfo, msg: msg}, infoSize, c.handling.Load()); {
	case errors.Is(err, mailbox.ErrFull):
		return ErrFull
	case err != nil:
		return fmt.Errorf("channel: send to %s: %w", c.topic, ErrClosed)
	}
	return nil
}

// enqueue puts a message into the mailbox. A message that the client's own message caused has more
// room, because the client's may fill the mailbox.
func (c *Channel) enqueue(it item, size int, own bool) error {
	if it.caused = own && c.handling.Load(); it.caused {
		return c.mailbox.EnqueueOwn(it, size)
	}
	return c.mailbox.Enqueue(it, size)
}

// OnEnd registers a function that is called once when the channel has ended, for whatever reason,
// after Terminate. It runs as a callback does and must not block for long, because a new join of
// the topic by this client waits for it. If one function panics or ends its goroutine, the others
// are still called.
//
// OnEnd reports false, and does not call f, if the channel has ended already.
func (c *Channel) OnEnd(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.status == serverEnded {
		return false
	}
	c.onEnd = &endFunc{f, c.onEnd}
	return true
}

// Subscribe subscribes to another topic. Its broadcasts go to the channel's Info callbacks, as
// *pubsub.Broadcast, and not to the client. The subscription ends with the channel, or when cancel
// is called.
func (c *Channel) Subscribe(topic string) (cancel func()) {
	sub := c.up.PubSub().Subscribe(topic, listener{c})
	c.mu.Lock()
	over := c.state.status == serverEnded
	if !over {
		rare := c.ensureRare()
		if rare.others == nil {
			rare.others = make(map[*pubsub.Subscription]struct{}, 1)
		}
		rare.others[sub] = struct{}{}
	}
	c.mu.Unlock()
	if over {
		sub.Cancel()
	}
	return func() {
		sub.Cancel() // first: the channel's end must find every subscription that may still deliver
		c.mu.Lock()
		if c.rare != nil {
			delete(c.rare.others, sub)
		}
		c.mu.Unlock()
	}
}

// listener is a channel's subscription to a topic that is not its own.
type listener struct{ c *Channel }

func (l listener) Deliver(b *pubsub.Broadcast) error {
	if b.Event == channelhost.EventGather {
		return nil // it is for the clients of the topic
	}
	it := item{kind: itemInfo, msg: b}
	err := l.c.enqueue(it, infoSize+len(b.Payload.Bytes()), l.c.sending.Load() > 0)
	if errors.Is(err, mailbox.ErrFull) {
		l.c.overflow()
	}
	return nil
}

// subscriber is a Channel as the subscriber of its topic. Its methods are not Channel's, because
// they are not for users.
type subscriber Channel

var (
	_ prepare.Subscriber[*pubsub.Broadcast] = (*subscriber)(nil)
	_ channelhost.Member                    = (*subscriber)(nil)
)

// Preparer is part of prepare.Subscriber.
func (s *subscriber) Preparer() preparer { return s.h.preparer }

// Deliver is part of pubsub.Subscriber.
func (s *subscriber) Deliver(b *pubsub.Broadcast) error { return s.DeliverPrepared(b, nil) }

// DeliverPrepared is part of prepare.Subscriber. The value is the key of the broadcast, if it has
// one.
func (s *subscriber) DeliverPrepared(b *pubsub.Broadcast, key any) error {
	c := (*Channel)(s)
	if p := c.past(); p != nil && b.Record() != nil {
		if !p.reader.Live() {
			return nil // it is read from the log
		}
		if p.asked || c.credit() != nil && !c.h.intercepts(b) {
			return c.deliverRecord(b)
		}
	}
	intercepts := c.h.intercepts(b)
	if isExtension(b.Event) && (!intercepts || b.Event == channelhost.EventGather) {
		if b.Event == channelhost.EventGather {
			c.gather(b)
		}
		return nil // the client did not ask for it
	}
	status := c.status()
	if status.isBeforeJoin() {
		c.answering.Lock() // until the join is answered
		status = c.status()
		c.answering.Unlock()
	}
	if status.isMute() {
		// A callback that does not return keeps the subscription, but the topic may be joined anew.
		return nil
	}
	if intercepts {
		it := item{kind: itemOut, event: b.Event, payload: b.Payload}
		if ctx := b.Context(); ctx != nil {
			it.msg = ctx
		}
		if err := c.enqueue(it, len(b.Payload.Bytes()), c.sending.Load() > 0); errors.Is(err, mailbox.ErrFull) {
			c.overflow()
		}
		return nil
	}
	if !c.takeFor(b.Event) {
		c.countNoCredit()
		return nil
	}
	f, err := b.Frame(c.up.Serializer())
	if err != nil {
		if b.Record() != nil {
			c.cannotSend(err)
		}
		return err
	}
	how := c.h.deliveryOfBroadcast(b, key)
	how.Caused = c.handling.Load()
	if b.Event == eventDiff && c.holdDiff(f, how) {
		return nil
	}
	_ = c.up.Send(f, how) // the end of a connection is not an error for the broadcaster
	return nil
}

// open returns why the channel may not send, or nil.
func (c *Channel) open() error {
	switch s := c.status(); {
	case s.isBeforeJoin():
		return ErrNotJoined
	case s.isOpen():
		return nil
	}
	return ErrClosed
}

// send sends a frame, unless the channel was silenced. A frame that is sent at the same moment may
// still go out, as if it had been sent before.
func (c *Channel) send(f *serializer.Frame, how transport.Delivery) error {
	if c.status().isMute() || c.up.Send(f, how) != nil {
		return ErrClosed
	}
	return nil
}

func (c *Channel) reply(ref serializer.Ref, r push.Reply, how transport.Delivery) error {
	f, err := c.encodeReply(c.pushRef, ref, r)
	if err != nil {
		return err
	}
	how.Answer = true
	return c.send(f, how)
}

// answer is reply for the mailbox's function, which holds no locks. If more messages wait, their
// answers may be written together with this one.
func (c *Channel) answer(ref serializer.Ref, r push.Reply) error {
	return c.reply(ref, r, transport.Delivery{Now: !c.mailbox.HasNext()})
}

func (c *Channel) encodeReply(joinRef, ref serializer.Ref, r push.Reply) (*serializer.Frame, error) {
	status := r.Status
	if status == "" {
		status = push.StatusOK
	}
	return serializer.Encode(c.up.Serializer(), &serializer.Message{
		Kind: serializer.KindReply, JoinRef: joinRef, Ref: ref, Topic: c.topic, Event: serializer.EventReply,
		Status: status, Payload: serializer.Value(r.Payload),
	})
}

// lifecycle returns a frame of phx_close or phx_error. Its ref is that of the join as well, because
// version 1.0.0 has no join_ref.
func (c *Channel) lifecycle(event string, payload serializer.Payload) *serializer.Frame {
	f, err := serializer.Encode(c.up.Serializer(), &serializer.Message{
		Kind: serializer.KindPush, JoinRef: c.joinRef(), Ref: c.joinRef(), Topic: c.topic, Event: event, Payload: payload,
	})
	if err != nil {
		c.up.Log(c.driver(), "cannot tell the client that its channel ended", err)
		return nil
	}
	return f
}
