package socket

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/reason"
	"bennu.example/push"
	"bennu.example/serializer"
)

// denial is why the socket itself refuses what its client sent.
type denial uint8

const (
	unmatchedTopic denial = iota
	tooManyChannels
	tooManyRunning // channels
	tooManyJoins
	tooManyMessages
	longTopic
	longEvent
	longRef
	denials // how many there are
)

var answers = [denials]struct {
	reply push.Reply
	level zerolog.Level
	log   string
}{
	unmatchedTopic:  {reason.Reply("unmatched topic"), zerolog.WarnLevel, "join of an unmatched topic"},
	tooManyChannels: {reason.Reply("too many channels joined"), zerolog.ErrorLevel, "too many channels joined: see socket.Config.MaxChannels"},
	tooManyRunning:  {reason.Reply("too many channels joined"), zerolog.ErrorLevel, "too many callbacks do not return: see socket.Config.MaxChannels"},
	tooManyJoins:    {reason.Reply("too many joins"), zerolog.WarnLevel, "too many joins: see socket.Config.JoinRate"},
	tooManyMessages: {reason.Reply("too many messages"), zerolog.WarnLevel, "too many messages: see socket.Config.MessageRate"},
	longTopic:       {reason.Reply("topic too long"), zerolog.WarnLevel, "topic too long: see socket.Config.MaxTopic"},
	longEvent:       {reason.Reply("event too long"), zerolog.WarnLevel, "event too long: see socket.Config.MaxTopic"},
	longRef:         {reason.Reply("ref too long"), zerolog.WarnLevel, "ref too long: see socket.Config.MaxTopic"},
}

// refuse answers m with an error. All are counted, but of each socket only the first of its kind is logged, or a flood would flood the log.
func (s *session) refuse(m *serializer.Message, joinRef serializer.Ref, why denial) {
	s.h.counts.denials[why].Add(1)
	a := &answers[why]
	if s.logged&(1<<why) == 0 {
		s.logged |= 1 << why
		s.h.cfg.Logger.WithLevel(a.level).Str("topic", clip(m.Topic)).Msg(a.log)
	}
	s.reply(m, joinRef, a.reply)
}

// logPause is how long handshakes beyond the rate are only counted after one was logged.
const logPause = time.Minute

// allowHandshake takes a token of Config.HandshakeRate, if there is one.
func (h *Handler) allowHandshake() bool {
	ok, tell := h.handshake.allow()
	if !ok {
		h.counts.tooFast.Add(1)
	}
	if tell {
		h.cfg.Logger.Warn().Msg("too many handshakes: see socket.Config.HandshakeRate")
	}
	return ok
}

// limiter is a token bucket: so many events a second, and a burst of two seconds' worth. Nobody waits in it: an event passes or does not. It
// is for one goroutine at a time.
type limiter struct {
	every time.Duration // per event; 0: everything passes
	burst time.Duration
	full  time.Time // when the bucket will be full again
}

// burstSeconds is how many seconds' worth of events may come at once.
const burstSeconds = 2

func newLimiter(perSecond int) limiter {
	if perSecond <= 0 {
		return limiter{}
	}
	return limiter{every: time.Second / time.Duration(perSecond), burst: burstSeconds * time.Second}
}

// allow takes a token, if there is one.
func (l *limiter) allow() bool {
	if l.every == 0 {
		return true
	}
	now := time.Now()
	if l.full.Before(now) {
		l.full = now
	}
	if l.full.Sub(now)+l.every > l.burst {
		return false
	}
	l.full = l.full.Add(l.every)
	return true
}

// sharedLimiter is a limiter for any number of goroutines.
type sharedLimiter struct {
	mu sync.Mutex
	limiter
	quiet time.Time // until when refusals are not to be told
}

// allow also says whether a refusal is to be told.
func (l *sharedLimiter) allow() (ok, tell bool) {
	if l.every == 0 {
		return true, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limiter.allow() {
		return true, false
	}
	now := time.Now()
	if now.Before(l.quiet) {
		return false, false
	}
	l.quiet = now.Add(logPause)
	return false, true
}
