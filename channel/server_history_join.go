package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// Resume is what a client's join asks of the history of its topic.
type Resume struct {
	// Asked reports whether the client asked for history.
	Asked bool
	// OK reports that every event that the client missed follows after the reply. A join callback that
	// loads a snapshot for new clients can omit it.
	OK bool
	// Since is the position from which the client wants to continue. It is zero if there is none.
	Since history.Position
}

// Resume returns what the client's join asks of the history of its topic. It is for the join
// callback: after the reply it returns the zero Resume. See pubsub.NewRecorded.
func (c *Channel) Resume() Resume {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.join == nil || c.join.history == nil {
		return Resume{}
	}
	return c.join.history.resume
}

// ReplayFrom lets the join continue behind a position that is not the client's, such as that of a
// snapshot in the reply: every record after it follows the reply. The client is not recovered, and
// its position becomes p. ReplayFrom is for the join callback, on a recorded topic, if the client
// asked for history and Resume is not OK.
//
// If not all records after p can be sent, nothing changes, and the error wraps history.ErrTrimmed,
// ErrEpoch, ErrAhead or ErrTag. It is ErrTrimmed also if they are more than Keep.MaxReplay or older
// than Reach permits. The error wraps history.ErrPosition for the zero position, ErrUnavailable if
// the log does not answer, and ErrNoRule if the topic is not recorded.
func (c *Channel) ReplayFrom(p history.Position) error {
	if err := c.replayFrom(p); err != nil {
		return fmt.Errorf("channel: replay %s from %q: %w", c.topic, p, err)
	}
	return nil
}

var (
	errNoJoin    = errors.New("it is not called by the join callback of a client that asked for history")
	errContinues = errors.New("the join continues at the client's position")
)

func (c *Channel) replayFrom(p history.Position) error {
	c.mu.Lock()
	var h *joinHistory
	if c.join != nil && c.state.status.isBeforeJoin() {
		h = c.join.history
	}
	c.mu.Unlock()
	switch {
	case h == nil:
		return errNoJoin
	case c.past() == nil:
		return history.ErrNoRule
	case h.resume.OK:
		return errContinues
	case p.IsZero():
		return history.ErrPosition
	}
	past := c.past()
	start := follow.Start{Since: p}
	if r := past.rare.Load(); r != nil {
		start.Reach = r.reach
	}
	why, err := past.reader.Seek(c.context(), start)
	switch {
	case err != nil:
		return err
	case why != "":
		return lossOf(why)
	}
	h.placed = true
	return nil
}

// lossOf returns the error of package history for a reason of package follow.
func lossOf(why string) error {
	switch why {
	case follow.WhyEpoch:
		return history.ErrEpoch
	case follow.WhyAhead:
		return history.ErrAhead
	case follow.WhyTag:
		return history.ErrTag
	case follow.WhyMany:
		return fmt.Errorf("%w: more than Keep.MaxReplay records follow", history.ErrTrimmed)
	case follow.WhyReach:
		return fmt.Errorf("%w: Reach excludes records that follow", history.ErrTrimmed)
	}
	return history.ErrTrimmed
}

// Reach bounds the history that a client receives: events that are older than the returned time are
// neither replayed nor paged to it. A client that missed such an event is not recovered, and
// continues after the last one. The age of an event is that of history.Record.Time, by the log's
// clock. The zero time means no bound. The function is called before the join callback, if the
// client asks for history.
func Reach[S any](f func(s *S, ctx context.Context, c *Channel) time.Time) Option[S] {
	return Option[S]{func(h *Handler) {
		must(f != nil, "Reach")
		if h.reach != nil {
			panic("channel: two Reach callbacks")
		}
		h.reach = func(ctx context.Context, c *Channel) (time.Time, error) { return f(c.data.(*S), ctx, c), nil }
	}}
}

// Pages allows clients that asked for history to read it page by page, back from a position. The
// function is called for each page; an error refuses it, and the client receives the reason
// "forbidden". Events that the handler intercepts are not in the pages.
func Pages[S any](allow func(s *S, ctx context.Context, c *Channel) error) Option[S] {
	return Option[S]{func(h *Handler) {
		must(allow != nil, "Pages")
		if h.pages != nil {
			panic("channel: two Pages callbacks")
		}
		h.pages = func(ctx context.Context, c *Channel) error { return allow(c.data.(*S), ctx, c) }
	}}
}

// joinHistory is what a join needs of the history until it was answered.
type joinHistory struct {
	resume Resume
	why    string // the reply's; empty if the client's position is continued
	placed bool   // by ReplayFrom; owned by the join callback
	missed int    // the reply's
}

// historyReply is the member "$history" of the reply to a join.
type historyReply struct {
	position history.Position // Zero means that the topic is not recorded.
	missed   int
	why      string // Empty means that the position is continued.
}

// append appends r as JSON. It is written out, because every join of a client that comes back needs
// it.
func (r historyReply) append(b []byte) []byte {
	b = append(b, '{')
	if !r.position.IsZero() {
		b, _ = r.position.AppendText(append(b, `"pos":"`...))
		b = append(b, `",`...)
	}
	b = strconv.AppendBool(append(b, `"recovered":`...), r.why == "")
	b = strconv.AppendInt(append(b, `,"missed":`...), int64(r.missed), 10)
	if r.why != "" {
		b = serializer.AppendString(append(b, `,"why":`...), r.why)
	}
	return append(b, '}')
}

const (
	whyOff             = "off"
	historyUnavailable = "history unavailable"
	historyChanged     = "history changed"
)

// openHistory determines where the client continues, before the join callback is called. It takes
// the member "$history" out of the params. An error is a *push.Error for the client.
func (c *Channel) openHistory(it *item) error {
	h, rest, reason := cutHistory(it.payload)
	if reason != "" {
		return push.Reject(reason)
	}
	it.payload = rest
	keep, ok := c.up.PubSub().Recorded().Rule(c.topic)
	ok = ok && !isExtension(c.topic) // nobody broadcasts on it
	var join *joinHistory
	if h.asked {
		join = c.noteHistory(joinHistory{resume: Resume{Asked: true, Since: h.since}, why: whyOff})
	}
	if !ok || !h.asked && keep.NoGap {
		return nil
	}
	return c.openPast(h, keep, join)
}

// openPast is the part of openHistory for topics that are recorded. It is a function of its own so
// that the joins of other topics need a small stack only.
//
//go:noinline
func (c *Channel) openPast(h historyParams, keep history.Keep, join *joinHistory) error {
	start := follow.Start{Since: h.since, Last: h.last, NoReplay: !h.asked}
	ext := new(struct { // in one allocation
		extension
		of past
	})
	p := &ext.of
	ext.extension.past = p
	p.asked, p.others = h.asked, h.asked && !h.own
	p.pulls = h.asked && c.h.interceptsAny(keep)
	if h.asked && c.h.reach != nil {
		err := c.callUser(func() (err error) { start.Reach, err = c.h.reach(c.context(), c); return err })
		if err != nil {
			return err
		}
		p.rarely().reach = start.Reach
	}
	mark, err := c.up.PubSub().Recorded().Open(c.context(), &p.reader, c.topic, start)
	switch {
	case err != nil && h.asked:
		return push.Reject(historyUnavailable)
	case err != nil: // the client has a gap, as without history
		c.up.Log(c.driver(), "join without history", err)
		return nil
	}
	c.ext.Store(&ext.extension)
	if h.asked {
		c.h.warnOfPolicies(c, keep)
		c.mu.Lock() // Reach may have started a goroutine that calls Resume
		join.resume.OK, join.why = mark.Why == "", mark.Why
		c.mu.Unlock()
	}
	return nil
}

func (c *Channel) noteHistory(h joinHistory) *joinHistory {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.join == nil {
		both := &struct { // in one allocation
			serverJoin
			joinHistory
		}{joinHistory: h}
		c.join = &both.serverJoin
		c.join.history = &both.joinHistory
	} else {
		c.join.history = &joinHistory{resume: h.resume, why: h.why} // h must not escape
	}
	return c.join.history
}

// joinReply returns the payload of the positive reply to the join. If the client asked for history,
// it has the member "$history".
func (c *Channel) joinReply(reply any) (serializer.Payload, error) {
	c.mu.Lock()
	var h *joinHistory
	if c.join != nil {
		h = c.join.history
	}
	c.mu.Unlock()
	payload := serializer.Value(reply)
	if h == nil {
		return payload, nil
	}
	out := historyReply{why: h.why}
	if c.past() != nil {
		var err error
		if out, err = c.missed(h); err != nil {
			return payload, err
		}
		h.missed = out.missed
	}
	encoded, err := payload.Encoded()
	if err != nil {
		return payload, err
	}
	if mayHave(encoded, memberHistory) {
		if _, _, found := encoded.Cut(memberHistory); found {
			return payload, fmt.Errorf("channel: join reply has a member %q, which is reserved", memberHistory)
		}
	}
	if s := c.up.Serializer(); s == serializer.V1() || s == serializer.V2() {
		if joined, ok := out.joinedWith(encoded); ok {
			return joined, nil
		}
		payload = encoded // others may encode the value in another way
	}
	return payload.With(memberHistory, json.RawMessage(out.append(nil))), nil
}

// joinedWith returns an object with r as its first member, as Payload.With does, but with a single
// allocation. It reports false if the payload is not compact JSON.
func (r historyReply) joinedWith(p serializer.Payload) (joined serializer.Payload, ok bool) {
	raw, err := p.JSON()
	if err != nil || len(raw) < 2 || raw[0] != '{' || raw[1] != '"' && raw[1] != '}' {
		return p, false
	}
	var room [256]byte
	b := r.append(append(room[:0], `{"`+memberHistory+`":`...))
	if raw[1] == '"' {
		b = append(b, ',')
	}
	_ = joined.UnmarshalJSON(append(b, raw[1:]...)) // copies, and never fails
	return joined, true
}

// missed returns the member "$history" for a topic that is recorded.
func (c *Channel) missed(h *joinHistory) (historyReply, error) {
	p := c.past()
	n, err := p.reader.Missed(c.context())
	if errors.Is(err, history.ErrTrimmed) && !h.resume.OK && !h.placed {
		// More was recorded during the join callback than the topic may keep. The client gets a new
		// position, so that a busy topic stays joinable, although its snapshot lacks what was removed. A
		// client whose callback may have spared the snapshot has to join again.
		c.up.Log(c.driver(), "history skipped during a join", err)
		n, err = 0, c.reopen()
	}
	switch {
	case follow.IsLoss(err):
		return historyReply{}, push.Reject(historyChanged)
	case err != nil:
		return historyReply{}, push.Reject(historyUnavailable)
	}
	return historyReply{p.reader.Position(), n, h.why}, nil
}

// reopen places the reader at the end of the log.
func (c *Channel) reopen() error {
	p := c.past()
	p.reader.Close()
	p.reader = follow.Reader[*pubsub.Broadcast]{}
	_, err := c.up.PubSub().Recorded().Open(c.context(), &p.reader, c.topic, follow.Start{NoReplay: true})
	return err
}

// interceptsAny reports whether the handler intercepts an event that is recorded.
func (h *Handler) interceptsAny(keep history.Keep) bool {
	for event := range h.out {
		if keep.Has(event) {
			return true
		}
	}
	return false
}

// warnOfPolicies logs that a slow policy of the handler does not apply to clients that asked for
// history: their records are never dropped.
func (h *Handler) warnOfPolicies(c *Channel, keep history.Keep) {
	for event, rule := range h.slow {
		drops := rule.policy != transport.Inherit && rule.policy != transport.Disconnect
		if drops && (event == "" || keep.Has(event)) && !h.warned.Swap(true) {
			c.up.Log(c.driver(), "history policy ignored", fmt.Errorf(
				"channel: recorded event %q is never dropped for a client that asked for history: see OnSlow", event))
		}
	}
}
