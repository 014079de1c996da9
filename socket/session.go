package socket

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/ratelimit"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

const (
	// mailboxWait bounds the time that a full mailbox delays its socket.
	mailboxWait = 5 * time.Second
	// joinWait bounds the time that a join delays its socket. Phoenix has no bound.
	joinWait = 50 * time.Millisecond
	// closeGrace is the time between the end of a connection and the cancellation of the context of
	// its callbacks.
	closeGrace = 5 * time.Second
	// maxHeartbeats bounds the heartbeats of a socket per second. Clients send two per minute.
	maxHeartbeats = 100
)

// session is one socket. It routes its client's messages to channels. The transport calls Receive
// and Closed, one at a time. The methods of channelhost.Carrier may be called from any goroutine.
type session struct {
	h    *Handler
	conn transport.Conn
	ser  serializer.Serializer
	ctx  sessionContext          // the parent of the contexts of the callbacks
	id   atomic.Pointer[idWatch] // nil if the socket is anonymous
	auth *sessionAuth            // nil without Config.Auth

	connectionID, clientID string // see Info
	order                  uint64 // the connect parameter $order, or zero
	isLongPoll             bool
	hasClientID            bool   // the client gave it
	logged                 uint16 // a bit for each denial that was logged; owned as joins
	parked                 parked
	own                    atomic.Pointer[socketState] // of the last join of $socket; nil if there was none

	// Owned by the goroutine that calls Receive.
	joins, messages, heartbeats ratelimit.Bucket

	visitor *visitor // of Config.Admission; nil if it is not limited

	running    sync.WaitGroup               // channels, including those that were left or replaced
	live       atomic.Int32                 // the number of these
	unanswered atomic.Int32                 // joins without a reply
	waits      atomic.Pointer[sessionWaits] // nil until it is needed

	// mu is held while a channel is routed or ended, so that frames of two joins of a topic do not
	// mix.
	mu       sync.Mutex
	channels channelSet
	wills    *sessionWills // nil until the first one
}

// sessionWaits is what a session has only if it or a channel waited.
type sessionWaits struct {
	answered chan struct{}         // receives when unanswered becomes 0
	held     []channelhost.Channel // they wait until the connection is no longer congested; under mu
}

func (s *session) allWaits() *sessionWaits {
	if s.waits.Load() == nil {
		s.waits.CompareAndSwap(nil, &sessionWaits{answered: make(chan struct{}, 1)})
	}
	return s.waits.Load()
}

// open begins a session on a connection that was just made.
func (h *Handler) open(conn transport.Conn, ser serializer.Serializer, who identity) *session {
	s := &session{h: h, conn: conn, ser: ser, auth: newSessionAuth(&who)}
	s.ctx = sessionContext{who.parent, s}
	s.connectionID, s.clientID, s.isLongPoll = who.connection, who.client, who.longPoll
	s.order, s.hasClientID = who.order, who.ownClient
	h.mu.Lock()
	h.sessions[s] = struct{}{}
	draining := h.draining
	h.mu.Unlock()
	if draining { // Shutdown may have listed the sessions before
		conn.Close(transport.CodeRestart, "")
	}
	if who.id != nil {
		s.id.Store(who.id)
	}
	if s.auth != nil {
		s.auth.mu.Lock()
		if who.refused {
			s.endDenied(deniedHold)
		} else {
			s.schedule()
		}
		s.auth.mu.Unlock()
	}
	if who.id != nil {
		if reason := who.id.revoked.Load(); reason != nil && !who.id.tasked.Swap(true) {
			s.revoke(*reason) // before a join is received
		}
		who.id.opened(s)
	}
	if !who.refused {
		s.notifyOpened()
	}
	return s
}

// Receive is part of transport.Session.
func (s *session) Receive(op serializer.Op, data []byte) error {
	next, err := s.ReceivePending(op, data)
	if next != nil {
		next.Start()
	}
	return err
}

// ReceivePending routes one message. Next is the mailbox of its channel if that is pending:
// transports that can handle it on their own goroutines do. A malformed message ends the
// connection, as in Phoenix.
func (s *session) ReceivePending(op serializer.Op, data []byte) (next mailbox.Pending, err error) {
	m, err := s.ser.Parse(op, data)
	if err != nil {
		s.h.counts.badMessages.Add(1)
		const malformed = "malformed message"
		withError(s.logEvent(zerolog.WarnLevel, malformed), err).Msg(malformed)
		return nil, &transport.CloseError{Code: transport.CodeInternal}
	}
	phase := s.phase()
	switch {
	case phase >= phaseDenied:
	case max(len(m.JoinRef), len(m.Ref)) > s.h.cfg.MaxTopic:
		s.refuse(&m, s.replyRef(&m), longRef)
	case m.Topic == serializer.TopicPhoenix && m.Event == serializer.EventHeartbeat:
		s.heartbeat(&m)
	case phase.refuses(&m):
		s.refuseIn(phase, &m)
	case m.Event == serializer.EventJoin && m.RawTopic == "":
		s.join(&m)
	case !s.messages.Take(s.h.rates.messages):
		s.refuse(&m, s.replyRef(&m), tooManyMessages)
	case !s.visitor.allowMessage():
		s.refuse(&m, s.replyRef(&m), keyMessages)
	case m.RawTopic != "":
		s.unjoined(&m)
	case len(m.Event) > s.h.cfg.MaxTopic:
		s.refuse(&m, s.replyRef(&m), longEvent)
	default:
		next = s.deliver(&m)
	}
	return next, nil
}

var okReply = push.OK(nil)

// heartbeat answers a heartbeat. Heartbeats are not part of Config.MessageRate, but are bounded
// too.
func (s *session) heartbeat(m *serializer.Message) {
	if !s.heartbeats.Take(ratelimit.PerSecond(maxHeartbeats)) {
		s.refuse(m, "", tooManyHeartbeats)
		return
	}
	s.reply(m, "", okReply)
}

// join begins a channel, and replaces the one that the topic has, if any.
func (s *session) join(m *serializer.Message) {
	if !s.joins.Take(s.h.rates.joins) {
		s.refuse(m, m.JoinRef, tooManyJoins)
		return
	}
	if !s.visitor.allowJoin() {
		s.refuse(m, m.JoinRef, keyJoins)
		return
	}
	if len(m.Topic) > s.h.cfg.MaxTopic {
		s.refuse(m, m.JoinRef, longTopic)
		return
	}
	handler := s.route(m.Topic)
	if handler == nil {
		s.refuse(m, "", unmatchedTopic)
		return
	}
	s.mu.Lock()
	if s.phase() >= phaseDenied { // the channels were revoked after this join was received
		s.mu.Unlock()
		return
	}
	before := s.channels.get(m.Topic)
	most := s.h.cfg.MaxChannels
	if m.Topic == topicSocket || s.channels.get(topicSocket) != nil {
		most++ // the socket's own channel does not count
	}
	denied := denials // none
	switch {
	case int(s.live.Load())/2 >= most:
		denied = tooManyRunning
	case before == nil && s.channels.size() >= most:
		denied = tooManyChannels
	}
	if denied != denials {
		s.mu.Unlock()
		s.refuse(m, m.JoinRef, denied)
		return
	}
	alone := s.unanswered.Add(1) == 1
	s.running.Add(1)
	s.live.Add(1)
	c := channelhost.Start(s, channelhost.Join{
		Handler: handler, Message: *m, Before: before, MaxMailbox: s.h.cfg.MaxMailbox, Workers: &s.h.workers,
		Values: s.values(),
	})
	s.channels.add(c)
	s.mu.Unlock()
	if before != nil {
		const replaced = "channel replaced: its client joined the topic again"
		s.logEvent(zerolog.InfoLevel, replaced).Str("topic", clip(m.Topic)).Msg(replaced)
	}
	s.awaitJoin(c, alone)
}

// route returns the handler of a topic, or nil. A topic that equals the subject of the grant
// matches an exact route only, so that a client does not join the name of its own user by accident
// of a pattern.
func (s *session) route(topic string) *channel.Handler {
	if s.auth != nil && topic == s.subject() {
		return s.h.routes.exact[topic]
	}
	return s.h.routes.match(topic)
}

// awaitJoin waits until a join is answered, as Phoenix does, so that replies come in the order of
// the requests. It waits at most joinWait, and not while an earlier join is unanswered.
//
// Most joins are answered within a few turns of the scheduler. They need no timer.
func (s *session) awaitJoin(c channelhost.Channel, alone bool) {
	for i := 0; alone && i < 16; i++ {
		runtime.Gosched()
		if s.unanswered.Load() == 0 {
			return
		}
	}
	c.Watch(max(s.h.cfg.JoinTimeout, 0))
	if !alone {
		return
	}
	answered := s.allWaits().answered // made before unanswered is read
	slow := time.NewTimer(joinWait)
	defer slow.Stop()
	for s.unanswered.Load() > 0 {
		select {
		case <-answered:
		case <-slow.C:
			return
		}
	}
}

// Answered is part of channelhost.Carrier.
func (s *session) Answered() {
	if s.unanswered.Add(-1) > 0 {
		return
	}
	if w := s.waits.Load(); w != nil {
		select {
		case w.answered <- struct{}{}:
		default: // a notification is pending
		}
	}
}

// Ended is part of channelhost.Carrier.
func (s *session) Ended() {
	s.live.Add(-1)
	s.running.Done()
}

// deliver passes a message to the channel of its topic. It returns the same as ReceivePending.
func (s *session) deliver(m *serializer.Message) (next mailbox.Pending) {
	s.mu.Lock()
	c := s.channels.get(m.Topic)
	s.mu.Unlock()
	ok := false
	switch {
	case c == nil:
	case !c.Accepts(m.JoinRef):
		return nil
	case m.Event == serializer.EventLeave:
		ok = c.Leave(*m, mailboxWait)
	default:
		next, ok = c.Receive(*m, mailboxWait)
	}
	if ok {
		return next
	}
	if next != nil {
		next.Start() // before user code, which may fail
	}
	s.unjoined(m)
	return nil
}

// replyRef returns the join_ref of a reply to m: the one that its channel's replies have, or m's
// own if there is no channel.
func (s *session) replyRef(m *serializer.Message) serializer.Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.channels.get(m.Topic); c != nil && m.RawTopic == "" && c.Accepts(m.JoinRef) {
		return c.ReplyRef()
	}
	return m.JoinRef
}

// unjoined answers a message on a topic that is not joined. A leave succeeds; the rest is an error.
func (s *session) unjoined(m *serializer.Message) {
	if m.Event == serializer.EventLeave {
		s.reply(m, m.JoinRef, okReply)
		return
	}
	s.reply(m, "", answers[unmatchedTopic].reply)
}

// reply answers m on behalf of the socket, not of a channel.
func (s *session) reply(m *serializer.Message, joinRef serializer.Ref, r push.Reply) {
	f, err := serializer.Encode(s.ser, &serializer.Message{
		Kind: serializer.KindReply, JoinRef: joinRef, Ref: m.Ref, Topic: m.Topic, RawTopic: m.RawTopic,
		Event:  serializer.EventReply,
		Status: r.Status, Payload: serializer.Value(r.Payload),
	})
	if err != nil {
		const unsent = "socket cannot reply"
		withError(s.logEvent(zerolog.ErrorLevel, unsent), err).Msg(unsent)
		return
	}
	_ = s.conn.Send(f, transport.Delivery{Answer: true}) // a connection that has ended needs no reply
}

// Closed ends the channels and waits for them. They handle the messages that they have received,
// and after closeGrace the context of their callbacks is cancelled.
func (s *session) Closed(err error) {
	s.logEnd(err)
	s.endAuth()
	s.noteEnd(err)
	s.mu.Lock()
	channels := s.channels.list()
	s.mu.Unlock()
	for _, c := range channels {
		c.Close(err)
	}
	s.awaitEnd(channels, err)
	s.unwatch() // Revoke counts as long as a callback may begin
	s.notifyClosed(err)
	s.visitor.release()
	s.h.closed(s)
}

// awaitEnd waits for the channels, and cancels those that take longer than closeGrace. Most end
// within a few turns of the scheduler. They need no timer.
func (s *session) awaitEnd(channels []channelhost.Channel, err error) {
	for i := 0; s.live.Load() > 0 && i < 16; i++ {
		runtime.Gosched()
	}
	if s.live.Load() > 0 {
		cancelled := make(chan struct{})
		cancel := time.AfterFunc(closeGrace, func() {
			defer close(cancelled)
			for _, c := range channels {
				c.Cancel(err)
			}
		})
		defer func() {
			if !cancel.Stop() {
				<-cancelled
			}
		}()
	}
	for _, c := range channels {
		c.Wait()
	}
	s.running.Wait()
}

// logEnd logs an end that the client did not request. The transport counts them.
func (s *session) logEnd(err error) {
	var level zerolog.Level
	var message string
	panicked, crashed := errors.AsType[*channel.PanicError](err)
	closed, _ := errors.AsType[*transport.CloseError](err)
	switch {
	case crashed:
		level, message = zerolog.ErrorLevel, "socket crashed"
	case errors.Is(err, transport.ErrFull):
		level, message = zerolog.WarnLevel, "socket ended: see socket.Config.MaxQueue"
	case errors.Is(err, transport.ErrIdle): // this includes clients that lost their network
		level, message = zerolog.DebugLevel, "socket ended: see socket.Config.IdleTimeout"
	case closed != nil && closed.Code == transport.CodeTooBig:
		level, message = zerolog.WarnLevel, "socket ended: see socket.Config.MaxMessage"
	default:
		return
	}
	e := withError(s.logEvent(level, message), err)
	if crashed {
		e = e.Bytes("stack", panicked.Stack)
	}
	e.Msg(message)
}

// NoCredit counts a broadcast that the client did not receive because it has no credit. Package
// channel calls it.
func (s *session) NoCredit() { s.h.counts.noCredit.Add(1) }

// Context is part of channelhost.Carrier.
func (s *session) Context() context.Context { return &s.ctx }

// Serializer is part of channelhost.Carrier.
func (s *session) Serializer() serializer.Serializer { return s.ser }

// PubSub is part of channelhost.Carrier.
func (s *session) PubSub() *pubsub.PubSub { return s.h.cfg.PubSub }

// Send is part of channelhost.Carrier.
func (s *session) Send(f *serializer.Frame, how transport.Delivery) error {
	if s.phase() == phaseSilent {
		return nil
	}
	return s.conn.Send(f, how)
}

// batcher is implemented by connections that can write several frames together.
type batcher interface{ Batch(f func()) }

// Batch is part of channelhost.Carrier.
func (s *session) Batch(f func()) {
	if b, ok := s.conn.(batcher); ok {
		b.Batch(f)
	} else {
		f()
	}
}

// Congested is part of channelhost.Carrier.
func (s *session) Congested(c channelhost.Channel) bool {
	if !s.conn.Congested(nil) {
		return false
	}
	w := s.allWaits()
	s.mu.Lock()
	w.held = append(w.held, c)
	s.mu.Unlock()
	if s.conn.Congested(s.resume) {
		return true
	}
	s.resume() // it may have been called before c was held
	return false
}

// resume continues the channels that Congested held.
func (s *session) resume() {
	w := s.allWaits()
	s.mu.Lock()
	held := w.held
	w.held = nil
	s.mu.Unlock()
	for _, c := range held {
		c.Resume()
	}
}

// End is part of channelhost.Carrier.
func (s *session) End(c channelhost.Channel, frames ...*serializer.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels.remove(c)
	for _, f := range frames {
		if f != nil {
			_ = s.Send(f, transport.Delivery{Answer: true}) // an ended connection needs no reply
		}
	}
}

// Crashed is part of channelhost.Carrier.
func (s *session) Crashed(c channelhost.Channel, what string, err error) {
	s.h.counts.ofEnd(err).Add(1)
	s.log(zerolog.ErrorLevel, c, what, err)
}

// Log is part of channelhost.Carrier.
func (s *session) Log(c channelhost.Channel, message string, err error) {
	s.log(zerolog.WarnLevel, c, message, err)
}

// logEvent begins an event of the log as Handler.log does, with the socket's id.
func (s *session) logEvent(level zerolog.Level, message string) *zerolog.Event {
	e := s.h.log(level, message)
	if id := s.subject(); e != nil && id != "" {
		e = e.Str("socket_id", clip(id))
	}
	return e
}

func (s *session) log(level zerolog.Level, c channelhost.Channel, message string, err error) {
	e := s.logEvent(level, message)
	var p *channel.PanicError
	if errors.As(err, &p) {
		e = e.Bytes("stack", p.Stack)
	}
	var in interface {
		error
		Event() string
	}
	if errors.As(err, &in) {
		e = e.Str("event", clip(in.Event()))
	}
	withError(e, err).Str("topic", clip(c.Topic())).Msg(message)
}
