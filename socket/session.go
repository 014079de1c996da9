package socket

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/reason"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

const (
	// mailboxWait is how long a full mailbox may hold up its socket.
	mailboxWait = 5 * time.Second
	// joinWait is how long a join may hold up its socket. Phoenix has no bound.
	joinWait = 50 * time.Millisecond
	// closeGrace is how long callbacks may go on when their connection has ended, until their context is cancelled.
	closeGrace = 5 * time.Second
	// eventDisconnect, broadcast on a socket's id, ends it.
	eventDisconnect = "disconnect"
)

// session is one socket: it routes what its client sends to channels. Receive and Closed are called by its transport, one at a time; the
// methods of channel.Carrier from anywhere.
type session struct {
	h    *Handler
	conn transport.Conn
	ser  serializer.Serializer
	ctx  context.Context
	id   *pubsub.Subscription // nil: anonymous

	joins, messages limiter // the reader's

	running    sync.WaitGroup // channels, also those that are not the topic's any more
	unanswered atomic.Int32   // joins
	answered   chan struct{}  // told when there are none; made by the first join

	mu       sync.Mutex // held over routing and ending a channel, so that the frames of two joins of a topic do not mix
	channels map[string]channel.Driver
}

// open begins a session on a connection that was just made.
func (h *Handler) open(conn transport.Conn, ser serializer.Serializer, ctx context.Context, id *idWatch) *session {
	s := &session{
		h: h, conn: conn, ser: ser, ctx: ctx,
		joins: newLimiter(h.cfg.JoinRate), messages: newLimiter(h.cfg.MessageRate),
	}
	h.mu.Lock()
	h.sessions[s] = struct{}{}
	draining := h.draining
	h.mu.Unlock()
	if draining { // it slipped in while Shutdown began
		conn.Close(transport.CodeRestart, "")
	}
	if id != nil {
		s.id = id.on
		id.opened(s)
	}
	return s
}

// Receive routes one message. A message that is none ends the connection, as in Phoenix.
func (s *session) Receive(op serializer.Op, data []byte) error {
	m, err := s.ser.Parse(op, data)
	if err != nil {
		s.h.counts.badMessages.Add(1)
		s.h.cfg.Logger.Warn().Err(err).Msg("socket sent what is no message")
		return &transport.CloseError{Code: transport.CodeInternal}
	}
	switch {
	case m.Topic == serializer.TopicPhoenix && m.Event == serializer.EventHeartbeat:
		s.reply(&m, "", okReply)
	case m.Event == serializer.EventJoin && m.RawTopic == "":
		s.join(&m)
	case !s.messages.allow():
		s.h.counts.fastMessages.Add(1)
		s.reply(&m, m.JoinRef, tooFast)
	case m.RawTopic != "":
		s.unjoined(&m)
	case len(m.Event) > s.h.cfg.MaxTopic:
		s.reply(&m, m.JoinRef, longEvent)
	default:
		s.deliver(&m)
	}
	return nil
}

var (
	okReply         = push.OK(nil)
	unmatchedTopic  = reason.Reply("unmatched topic")
	tooManyChannels = reason.Reply("too many channels joined")
	tooManyJoins    = reason.Reply("too many joins")
	tooFast         = reason.Reply("too many messages")
	longTopic       = reason.Reply("topic too long")
	longEvent       = reason.Reply("event too long")
	longRef         = reason.Reply("ref too long")
)

// join begins a channel, and replaces the one that the topic has, if any.
func (s *session) join(m *serializer.Message) {
	if !s.joins.allow() {
		s.h.counts.fastJoins.Add(1)
		s.reply(m, m.JoinRef, tooManyJoins)
		return
	}
	if len(m.Topic) > s.h.cfg.MaxTopic {
		s.h.counts.noTopic.Add(1)
		s.reply(m, m.JoinRef, longTopic)
		return
	}
	if max(len(m.JoinRef), len(m.Ref)) > s.h.cfg.MaxTopic { // the channel keeps one of them
		s.h.counts.noTopic.Add(1)
		s.reply(m, m.JoinRef, longRef)
		return
	}
	handler := s.h.routes.Match(m.Topic)
	if handler == nil {
		s.h.counts.noTopic.Add(1)
		s.h.cfg.Logger.Warn().Str("topic", clip(m.Topic)).Msg("join of an unmatched topic")
		s.reply(m, "", unmatchedTopic)
		return
	}
	s.mu.Lock()
	before, replaces := s.channels[m.Topic]
	if !replaces && len(s.channels) >= s.h.cfg.MaxChannels {
		s.mu.Unlock()
		s.h.counts.tooMany.Add(1)
		s.h.cfg.Logger.Error().Str("topic", clip(m.Topic)).Int("max", s.h.cfg.MaxChannels).
			Msg("too many channels joined: see socket.Config.MaxChannels")
		s.reply(m, m.JoinRef, tooManyChannels)
		return
	}
	if s.channels == nil {
		s.channels = make(map[string]channel.Driver, 1)
	}
	if s.answered == nil {
		s.answered = make(chan struct{}, 1)
	}
	alone := s.unanswered.Add(1) == 1
	s.running.Add(1)
	s.channels[m.Topic] = channel.Start(s.ctx, s, handler, m, before, s.h.cfg.MaxMailbox, &s.h.crew)
	s.mu.Unlock()
	if alone {
		s.awaitJoin()
	}
}

// awaitJoin waits for a join to be answered, as Phoenix does, so that answers come in the order of what was asked; but not for long, and not
// again while that join goes on. Most joins are answered before another goroutine could have been told.
func (s *session) awaitJoin() {
	for range 16 {
		runtime.Gosched()
		if s.unanswered.Load() == 0 {
			return
		}
	}
	slow := time.NewTimer(joinWait)
	defer slow.Stop()
	for s.unanswered.Load() > 0 {
		select {
		case <-s.answered:
		case <-slow.C:
			return
		}
	}
}

// Answered is part of channel.Carrier.
func (s *session) Answered() {
	if s.unanswered.Add(-1) == 0 {
		select {
		case s.answered <- struct{}{}:
		default: // it was told already
		}
	}
}

// Ended is part of channel.Carrier.
func (s *session) Ended() { s.running.Done() }

// deliver hands a message to the channel of its topic.
func (s *session) deliver(m *serializer.Message) {
	for range 2 { // twice if the channel just ended and was joined again
		s.mu.Lock()
		c, ok := s.channels[m.Topic]
		s.mu.Unlock()
		if !ok {
			break
		}
		if !c.Accepts(m.JoinRef) {
			return
		}
		if m.Event == serializer.EventLeave && c.Leave(m, mailboxWait) {
			return
		}
		if m.Event != serializer.EventLeave && c.Receive(m, mailboxWait) {
			return
		}
	}
	s.unjoined(m)
}

// unjoined answers a message on a topic that is not joined: a leave has nothing to do, the rest is an error.
func (s *session) unjoined(m *serializer.Message) {
	if m.Event == serializer.EventLeave {
		s.reply(m, m.JoinRef, okReply)
		return
	}
	s.reply(m, "", unmatchedTopic)
}

// reply answers m for the socket itself, not for a channel.
func (s *session) reply(m *serializer.Message, joinRef serializer.Ref, r push.Reply) {
	f, err := serializer.Encode(s.ser, &serializer.Message{
		Kind: serializer.KindReply, JoinRef: joinRef, Ref: m.Ref, Topic: m.Topic, RawTopic: m.RawTopic, Event: serializer.EventReply,
		Status: r.Status, Payload: serializer.Value(r.Payload),
	})
	if err != nil {
		s.h.cfg.Logger.Error().Err(err).Msg("socket cannot reply")
		return
	}
	_ = s.conn.Send(f, transport.Delivery{}) // a connection that has ended needs no reply
}

// Closed ends the channels and waits for them: what they were sent is handled, within closeGrace.
func (s *session) Closed(err error) {
	var p *transport.PanicError
	if errors.As(err, &p) {
		s.h.cfg.Logger.Error().Err(err).Bytes("stack", p.Stack).Msg("socket crashed")
	}
	if s.id != nil {
		s.id.Cancel()
	}
	s.mu.Lock()
	channels := make([]channel.Driver, 0, len(s.channels))
	for _, c := range s.channels {
		channels = append(channels, c)
	}
	s.mu.Unlock()
	for _, c := range channels {
		c.Close(err)
	}
	cancel := time.AfterFunc(closeGrace, func() {
		for _, c := range channels {
			c.Cancel(err)
		}
	})
	defer cancel.Stop()
	for _, c := range channels {
		c.Wait()
	}
	s.running.Wait()
	s.h.closed(s)
}

// Serializer is part of channel.Carrier.
func (s *session) Serializer() serializer.Serializer { return s.ser }

// PubSub is part of channel.Carrier.
func (s *session) PubSub() *pubsub.PubSub { return s.h.cfg.PubSub }

// Send is part of channel.Carrier.
func (s *session) Send(f *serializer.Frame, how transport.Delivery) error { return s.conn.Send(f, how) }

// End is part of channel.Carrier.
func (s *session) End(c *channel.Channel, frames ...*serializer.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.channels[c.Topic()]; ok && d.Is(c) {
		delete(s.channels, c.Topic())
	}
	for _, f := range frames {
		if f != nil {
			_ = s.conn.Send(f, transport.Delivery{}) // likewise
		}
	}
}

// Crashed is part of channel.Carrier.
func (s *session) Crashed(c *channel.Channel, what string, err error) {
	s.h.counts.crashes.Add(1)
	event := s.h.cfg.Logger.Error()
	var p *channel.PanicError
	if errors.As(err, &p) {
		event = event.Bytes("stack", p.Stack)
	}
	event.Err(err).Str("topic", clip(c.Topic())).Msg(what)
}

// Log is part of channel.Carrier.
func (s *session) Log(c *channel.Channel, message string, err error) {
	s.h.cfg.Logger.Warn().Err(err).Str("topic", clip(c.Topic())).Msg(message)
}

// clip shortens what a client chose for the log.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
