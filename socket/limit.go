package socket

import (
	"errors"
	"net/http"

	"github.com/rs/zerolog"

	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// denial is the reason why a socket refuses a message of its client.
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
	tooManyHeartbeats
	keyJoins
	keyMessages
	tokenExpired
	clientDenied
	denials // the number of reasons
)

// denialAnswer is the reply to a refused message, and the line in the log.
type denialAnswer struct {
	reason string
	reply  push.Reply
	level  zerolog.Level
	log    string
}

func newDenial(reason string, level zerolog.Level, log string) denialAnswer {
	return denialAnswer{reason, push.Reply{Status: push.StatusError, Payload: promise.Reason(reason)}, level, log}
}

const (
	seeMaxChannels = "too many channels joined: see socket.Config.MaxChannels"
	seeRunning     = "too many callbacks do not return: see socket.Config.MaxChannels"
)

var answers = [denials]denialAnswer{
	unmatchedTopic:  newDenial("unmatched topic", zerolog.WarnLevel, "join of an unmatched topic"),
	tooManyChannels: newDenial("too many channels joined", zerolog.ErrorLevel, seeMaxChannels),
	tooManyRunning:  newDenial("too many channels joined", zerolog.ErrorLevel, seeRunning),
	tooManyJoins:    newDenial("too many joins", zerolog.WarnLevel, "too many joins: see socket.Config.JoinRate"),
	tooManyMessages: newDenial("too many messages", zerolog.WarnLevel,
		"too many messages: see socket.Config.MessageRate"),
	longTopic:         newDenial("topic too long", zerolog.WarnLevel, "topic too long: see socket.Config.MaxTopic"),
	longEvent:         newDenial("event too long", zerolog.WarnLevel, "event too long: see socket.Config.MaxTopic"),
	longRef:           newDenial("ref too long", zerolog.WarnLevel, "ref too long: see socket.Config.MaxTopic"),
	tooManyHeartbeats: newDenial("too many messages", zerolog.WarnLevel, "too many heartbeats"),
	keyJoins:          newDenial("too many joins", zerolog.WarnLevel, "too many joins: see socket.Admission.JoinRate"),
	tokenExpired:      newDenial("token expired", zerolog.InfoLevel, "message after the expiry of the token"),
	clientDenied:      newDenial("denied", zerolog.InfoLevel, "message of a client that was refused finally"),
	keyMessages: newDenial("too many messages", zerolog.WarnLevel,
		"too many messages: see socket.Admission.MessageRate"),
}

// refuse answers m with an error. All answers are counted. For each socket only the first of its
// kind is logged, and the rate of all log lines is bounded: a client must not flood the log.
func (s *session) refuse(m *serializer.Message, joinRef serializer.Ref, why denial) {
	s.h.counts.denials[why].Add(1)
	a := &answers[why]
	if s.logged&(1<<why) == 0 {
		s.logged |= 1 << why
		s.logEvent(a.level, a.log).Str("topic", clip(m.Topic)).Msg(a.log)
	}
	s.reply(m, joinRef, a.reply)
	s.notifyDenied(m, a.reason)
}

// allowHandshake takes a token of Config.HandshakeRate. It returns false if there is none.
func (h *Handler) allowHandshake(r *http.Request) bool {
	if h.handshake.Take() {
		return true
	}
	h.counts.tooFast.Add(1)
	const tooFast = "too many handshakes: see socket.Config.HandshakeRate"
	h.logRarely(zerolog.WarnLevel, tooFast).Msg(tooFast)
	h.notifyRefused(r, refusedRate, errTooFast)
	return false
}

// admit counts a handshake for Config.Admission. The caller must release the visitor that it
// returns.
func (h *Handler) admit(r *http.Request) (*visitor, error) {
	c, err := h.admission.admit(r)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, errKeySockets), errors.Is(err, errManyKeys):
		h.counts.tooManySockets.Add(1)
	case errors.Is(err, errKeyTooFast):
		h.counts.tooFast.Add(1)
	default:
		h.refused(r, refusedLimit, err)
		return nil, err
	}
	const refused = "handshake beyond a bound of a client"
	withError(h.log(zerolog.WarnLevel, refused), err).Stringer("remote", remoteAddr(r)).Msg(refused)
	h.notifyRefused(r, refusedLimit, err)
	return nil, err
}
