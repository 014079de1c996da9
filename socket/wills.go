package socket

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/ratelimit"
	"bennu.example/key"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/will"
)

// Events of the channel $socket about last wills.
const (
	eventWill   = "will"
	eventUnwill = "unwill"
)

const (
	defaultWillAfter = 15 * time.Second
	maxWills         = 16      // of a connection
	maxWillPayload   = 4 << 10 // bytes
	maxNodeWills     = 100_000 // of a handler
	arrivePause      = 20 * time.Millisecond
	arriveTimeout    = 20 * time.Second // longer than a claim
)

// willRate bounds the pushes of eventWill and eventUnwill: 5 per second, and 32 at once.
var willRate = ratelimit.Rate{Every: time.Second / 5, Burst: 32 * time.Second / 5}

// Error replies to eventWill.
var (
	errNoTopic      = push.Reject("unmatched topic")
	errManyWills    = push.Reject("too many")
	errLargeWill    = push.Reject("too large")
	errBadWill      = push.Reject("invalid payload")
	errWillFenced   = push.Reject("fenced")
	errWillsAway    = push.Reject("unavailable")
	errWillIdentity = push.Reject("identity changed")
)

// sessionWills is the wills of a session. The session's mu guards them.
type sessionWills struct {
	list        []*sessionWill
	leftCleanly bool // the client has ended the connection as it should
}

// sessionWill is a will of a session. The session's mu guards it.
type sessionWill struct {
	will.Will

	lostOnly bool
	isSet    bool // the store has it
	dropped  willDrop
	unwilled bool // the client has deleted it
}

// willDrop is why a will that is being set must not run.
type willDrop uint8

const (
	notDropped    willDrop = iota
	dropByClient           // by eventUnwill
	dropBySubject          // the subject of the connection has changed
)

// willParams is the payload of eventWill. The client encodes it, too.
type willParams struct {
	Topic    string             `json:"topic"`
	Event    string             `json:"event"`
	Payload  serializer.Payload `json:"payload"`
	AfterMS  *float64           `json:"after_ms,omitempty"`
	LostOnly bool               `json:"lost_only,omitempty"`
}

// willReply is the reply to eventWill, and the payload of eventUnwill.
type willReply struct {
	Will string `json:"will,omitempty"`
}

type unwillReply struct {
	Count int `json:"count"`
}

// after returns the time between the end of the connection and the will.
func (p *willParams) after() time.Duration {
	if p.AfterMS == nil || *p.AfterMS < 0 {
		return defaultWillAfter
	}
	return time.Duration(min(*p.AfterMS, float64(will.Keep.Milliseconds()))) * time.Millisecond
}

// will sets a last will. The channel of its topic decides, and replies.
func (o *socketState) will(_ context.Context, own *channel.Channel, p willParams) (push.Reply, error) {
	s := o.s
	switch {
	case !o.rates.take(&o.rates.wills, willRate):
		return push.NoReply, errRate
	case p.Event == "" || len(p.Event) > s.h.cfg.MaxTopic || !isWillPayload(p.Payload):
		return push.NoReply, errBadWill
	case len(p.Payload.Bytes()) > maxWillPayload:
		return push.NoReply, errLargeWill
	}
	w := &sessionWill{lostOnly: p.LostOnly}
	w.Will = will.Will{ID: key.New(), Topic: p.Topic, Event: p.Event, Node: s.h.wills.node, After: p.after()}
	c, err := s.addWill(w)
	if err != nil {
		return push.NoReply, err
	}
	ref := own.Ref()
	err = c.SetWill(&channelhost.Will{
		Event: p.Event, Payload: p.Payload,
		Set: func(ctx context.Context, p serializer.Payload, err error) {
			if err == nil {
				err = s.setWill(ctx, w, p)
			} else {
				s.removeWill(w)
			}
			reply := push.OK(willReply{w.ID})
			if refused, ok := errors.AsType[*push.Error](err); ok {
				reply = push.Reply{Status: push.StatusError, Payload: refused.Payload}
			}
			_ = own.Reply(ref, reply) // $socket may have ended
		},
		Ended: func(cause error) { s.endWill(w, cause) },
	})
	if err != nil {
		s.removeWill(w)
		return push.NoReply, err
	}
	return push.NoReply, nil
}

// isWillPayload reports whether the payload is an object without reserved members.
func isWillPayload(p serializer.Payload) bool {
	if p.IsZero() {
		return true
	}
	reserved, err := p.HasReserved()
	return err == nil && !reserved && !p.IsBinary()
}

// addWill adds a will to the session, and returns the channel of its topic.
func (s *session) addWill(w *sessionWill) (channelhost.Channel, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.channels.get(w.Topic)
	switch {
	case c == nil || w.Topic == topicSocket:
		return nil, errNoTopic
	case !c.AllowsWills():
		return nil, push.Reject("forbidden")
	case len(s.willList()) >= maxWills || !s.h.wills.reserve():
		return nil, errManyWills
	}
	if s.wills == nil {
		s.wills = new(sessionWills)
	}
	s.wills.list = append(s.wills.list, w)
	return c, nil
}

// willList returns the wills. The caller holds mu.
func (s *session) willList() []*sessionWill {
	if s.wills == nil {
		return nil
	}
	return s.wills.list
}

// removeWill removes a will that the store does not have.
func (s *session) removeWill(w *sessionWill) {
	if s.takeWill(w) {
		s.h.wills.release()
	}
}

// takeWill removes a will from the session. It reports whether the will was there.
func (s *session) takeWill(w *sessionWill) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.willList(), w)
	if i < 0 {
		return false
	}
	s.wills.list = slices.Delete(s.wills.list, i, i+1)
	return true
}

// setWill stores a will that the handler of its topic has allowed. The callbacks' goroutine of the
// channel calls it, so that it returns before endWill is called.
func (s *session) setWill(ctx context.Context, w *sessionWill, p serializer.Payload) error {
	p, err := p.Encoded()
	if err == nil && !isWillPayload(p) {
		err = errBadWill
	}
	var raw []byte
	if err == nil {
		raw, err = p.JSON()
	}
	switch {
	case err != nil:
		s.removeWill(w)
		const invalid = "will refused: AllowWill returned an invalid payload"
		withError(s.logEvent(zerolog.ErrorLevel, invalid), err).Str("topic", clip(w.Topic)).Msg(invalid)
		return errBadWill
	case len(raw) > maxWillPayload:
		s.removeWill(w)
		return errLargeWill
	}
	_ = w.Payload.UnmarshalJSON(raw) // it is valid
	s.mu.Lock()
	w.Connection = s.connection()
	put := w.Will
	s.mu.Unlock()
	err = s.h.wills.put(ctx, put)
	s.mu.Lock()
	dropped := w.dropped
	w.isSet = err == nil && dropped == notDropped
	isSet := w.isSet
	s.mu.Unlock()
	if isSet {
		return nil
	}
	s.takeWill(w)
	s.h.wills.delete(put) // also after an error, because the store may have it
	switch {
	case dropped == dropByClient:
		return nil
	case dropped == dropBySubject:
		return errWillIdentity
	case errors.Is(err, will.ErrFenced):
		return errWillFenced
	}
	s.h.wills.logUnavailable(err)
	return errWillsAway
}

// connection returns the session as wills see it. The caller holds mu, under which the subject
// changes.
func (s *session) connection() will.Connection {
	c := will.Connection{ID: s.connectionID, Subject: s.subject(), ClientID: s.clientID, Order: s.order}
	if s.auth != nil {
		c.Subject = s.auth.grant.grant.ID
	}
	return c
}

// endWill is called when the channel of a will has ended.
func (s *session) endWill(w *sessionWill, cause error) {
	s.mu.Lock()
	isSet, left := w.isSet, s.wills.leftCleanly
	s.mu.Unlock()
	lived := errors.Is(cause, channel.ErrClosed) && !errors.Is(cause, channel.ErrStop)
	switch {
	case !s.takeWill(w):
	case !isSet:
		s.h.wills.release()
	case lived && !(w.lostOnly && left):
		s.h.wills.end(w.Will)
	default:
		s.h.wills.delete(w.Will)
	}
}

// noteEnd notes how the connection has ended, before its channels end.
func (s *session) noteEnd(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wills != nil {
		s.wills.leftCleanly = s.isCleanEnd(err)
	}
}

// isCleanEnd reports whether the client ended the connection as it should.
func (s *session) isCleanEnd(err error) bool {
	closed, ok := errors.AsType[*transport.CloseError](err)
	if !ok {
		return false
	}
	id := s.id.Load()
	return closed.Code == codeNormal || closed.Code == transport.CodeGoingAway && (id == nil || !id.ends.Load())
}

const codeNormal = 1000

// unwill deletes one will, or all.
func (o *socketState) unwill(ctx context.Context, _ *channel.Channel, p willReply) (push.Reply, error) {
	if !o.rates.take(&o.rates.wills, willRate) {
		return push.NoReply, errRate
	}
	s := o.s
	taken, count := s.dropWills(dropByClient, p.Will)
	var failed error
	for _, w := range taken {
		if err := s.h.wills.deleteNow(ctx, w.Will); err != nil {
			failed = err
		}
	}
	if failed != nil {
		s.h.wills.logUnavailable(failed)
		return push.NoReply, errWillsAway
	}
	return push.OK(unwillReply{count}), nil
}

// dropWills removes the wills of an ID, or all if it is empty. It returns those that the store has,
// and the number of all.
func (s *session) dropWills(why willDrop, id string) (taken []*sessionWill, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []*sessionWill
	for _, w := range s.willList() {
		switch {
		case id != "" && id != w.ID:
			kept = append(kept, w)
			continue
		case w.isSet:
			w.unwilled = true
			taken = append(taken, w)
		default: // setWill removes it
			kept = append(kept, w)
			if w.dropped != notDropped {
				continue
			}
			w.dropped = why
		}
		count++
	}
	if s.wills != nil {
		s.wills.list = kept
	}
	return taken, count
}

// subjectChanged deletes the wills, which belong to the subject before.
func (s *session) subjectChanged() {
	taken, _ := s.dropWills(dropBySubject, "")
	for _, w := range taken {
		s.h.wills.delete(w.Will)
	}
}

// Arrive is part of channelhost.Carrier.
func (s *session) Arrive(ctx context.Context, topic string) error {
	s.mu.Lock()
	c := s.connection()
	s.mu.Unlock()
	return s.arrive(ctx, topic, c)
}

func (s *session) arrive(ctx context.Context, topic string, c will.Connection) error {
	if !s.hasClientID {
		return nil // no other connection has the id that the handshake made
	}
	ctx, cancel := context.WithTimeout(ctx, arriveTimeout)
	defer cancel()
	if err := s.h.wills.arrive(ctx, topic, c); err != nil {
		s.h.wills.logUnavailable(err)
		return errWillsAway
	}
	return nil
}

// arrivals are the channels of a session whose topics have no wills of older connections.
type arrivals map[channelhost.Channel]struct{}

// arriveAs fences the older connections of another subject, which the connection is about to have,
// on the topics that it has joined or is joining. Joins that begin later may arrive as the subject
// before: see arrivals.miss.
func (s *session) arriveAs(ctx context.Context, subject string, done arrivals) error {
	s.mu.Lock()
	as := s.connection()
	s.mu.Unlock()
	if subject == as.Subject || subject != "" && as.Subject != "" { // replace refuses the latter
		return nil
	}
	as.Subject = subject
	for _, c := range s.others() {
		if _, ok := done[c]; ok || !c.AllowsWills() {
			continue
		}
		if err := s.arrive(ctx, c.Topic(), as); err != nil {
			return err
		}
		done[c] = struct{}{}
	}
	return nil
}

// miss reports whether a channel is missing.
func (a arrivals) miss(channels *channelSet) bool {
	for topic, c := range channels.all() {
		if _, ok := a[c]; !ok && topic != topicSocket && c.AllowsWills() {
			return true
		}
	}
	return false
}
