package channel

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"bennu.example/history"
	"bennu.example/internal/follow"
	"bennu.example/internal/ratelimit"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

const (
	defaultPage = 50
	maxPage     = 100
	maxPageSize = 256 << 10 // bytes of payloads

	topTimeout = 10 * time.Second
)

// historyRate is that of pushes of $history on one channel.
var historyRate = ratelimit.PerSecond(10)

var (
	replyRate        = errorReply("rate")
	replyOff         = errorReply(whyOff)
	replyForbidden   = errorReply("forbidden")
	replyTrimmed     = errorReply(reasonTrimmed)
	replyUnavailable = errorReply(historyUnavailable)
	replyPosition    = errorReply(invalidPosition)
	replyMember      = errorReply("reserved member")
	replyTooLarge    = errorReply("payload too large")
)

// waitingTop is a push of {"top": true} that is answered when the channel has reached a position.
type waitingTop struct {
	ref  serializer.Ref
	pos  history.Position
	late time.Time // when it fails
}

func (c *Channel) handleHistoryPush(it *item) {
	reply, err := c.historyPush(it.ref, it.payload)
	c.settle(it, reply, err)
}

// historyPush handles a client's push of $history. It returns push.NoReply if the answer follows
// later.
func (c *Channel) historyPush(ref serializer.Ref, payload serializer.Payload) (push.Reply, error) {
	if c.past() == nil {
		return replyOff, nil
	}
	if !c.past().rarely().rate.Take(historyRate) {
		return replyRate, nil
	}
	raw, err := payload.JSON()
	if err != nil {
		return replyInvalid, nil //nolint:nilerr // the client's mistake
	}
	var in struct {
		Top    bool            `json:"top"`
		Before json.RawMessage `json:"before"`
		Max    *int            `json:"max"`
	}
	switch err := json.Unmarshal(raw, &in); {
	case err != nil || in.Max != nil && *in.Max < 1:
		return replyInvalid, nil //nolint:nilerr // the client's mistake
	case in.Top:
		return c.awaitTop(ref), nil
	}
	before, ok := history.Position{}, false
	if len(in.Before) > 0 {
		before, ok = position(in.Before)
	}
	if !ok {
		return replyPosition, nil
	}
	most := defaultPage
	if in.Max != nil {
		most = min(*in.Max, maxPage)
	}
	return c.page(before, most)
}

// historyPage is the reply to a push of {"before": position}.
type historyPage struct {
	Items []pageItem `json:"items"`
	More  bool       `json:"more"`
}

// pageItem is one event of a page.
type pageItem struct {
	Event   string             `json:"event"`
	Payload serializer.Payload `json:"payload"`       // with its position
	Data    []byte             `json:"data,omitzero"` // of a binary event; nil for others
}

// page returns the newest events before a position, oldest first. Events that the handler
// intercepts are left out, because a page must not bypass a filter. If nothing is left, and there
// are older events, the page has the event $history with the position before which they are.
func (c *Channel) page(before history.Position, most int) (push.Reply, error) {
	if c.h.pages == nil || !c.past().asked {
		return replyForbidden, nil
	}
	refused := false
	err := c.callUser(func() error {
		err := c.h.pages(c.context(), c)
		refused = err != nil
		return nil
	})
	if err != nil {
		return push.NoReply, err // a panic
	}
	if refused {
		return replyForbidden, nil
	}
	batch, err := c.up.PubSub().Before(c.context(), c.topic, before, most)
	switch {
	case follow.IsLoss(err):
		return replyTrimmed, nil
	case err != nil:
		return replyUnavailable, nil //nolint:nilerr // the state of the log is in PubSub.LogHealth
	}
	reach := c.past().rarely().reach
	items, more, size := make([]pageItem, 0, len(batch.Records)), batch.More, 0
	first := len(batch.Records)
	for ; first > 0; first-- {
		r := &batch.Records[first-1]
		if !reach.IsZero() && r.Time.Before(reach) {
			more = false
			break
		}
		if size += len(r.Payload.Bytes()); size > maxPageSize && first < len(batch.Records) {
			more = true
			break
		}
	}
	shown := batch.Records[first:]
	for i := range shown {
		r := &shown[i]
		if c.h.out[r.Event] != nil {
			continue
		}
		item := pageItem{Event: r.Event, Payload: r.Payload.WithPosition(&r.Position)}
		if r.Payload.IsBinary() {
			item.Payload = serializer.Payload{}.WithPosition(&r.Position)
			item.Data = append([]byte{}, r.Payload.Bytes()...)
		}
		items = append(items, item)
	}
	if more && len(items) == 0 {
		marker := serializer.Payload{}.WithPosition(shown[0].Position)
		items = append(items, pageItem{Event: eventHistory, Payload: marker})
	}
	return push.OK(historyPage{items, more}), nil
}

// awaitTop answers when the channel has sent everything up to the log's top.
func (c *Channel) awaitTop(ref serializer.Ref) push.Reply {
	p := c.past()
	top, err := p.reader.Top(c.context())
	if err != nil {
		return replyUnavailable
	}
	if ref.IsNull() {
		return push.NoReply
	}
	r := p.rarely()
	late := time.Now().Add(topTimeout)
	r.mu.Lock()
	r.tops = append(r.tops, waitingTop{ref, top, late})
	r.mu.Unlock()
	c.answerTops()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.tops) == 0:
	case r.late == nil:
		r.late = time.AfterFunc(topTimeout, func() { _ = c.mailbox.EnqueueOwn(item{kind: itemTops}, 0) })
	default:
		r.late.Reset(topTimeout)
	}
	return push.NoReply
}

// answerTops answers the pushes of {"top": true} that are due. It is called by the callbacks'
// goroutine.
func (c *Channel) answerTops() {
	p := c.past()
	r := p.rare.Load()
	if r == nil {
		return
	}
	r.mu.Lock()
	tops := r.tops
	r.mu.Unlock()
	if len(tops) == 0 {
		return
	}
	var at history.Position
	var live bool
	p.reader.Sync(func(pos history.Position, isLive bool) {
		at, live = pos, isLive
		due := func(t waitingTop) bool { return live || reached(at, t.pos) }
		if p.asked && p.heldBack > 0 && slices.ContainsFunc(tops, due) {
			c.sendMarker(pos)
		}
	})
	left := tops[:0:0]
	for _, t := range tops {
		switch {
		case live || reached(at, t.pos):
			c.answerTop(t, push.OK(map[string]string{"pos": t.pos.String()}))
		case !time.Now().Before(t.late):
			c.answerTop(t, replyUnavailable)
		default:
			left = append(left, t)
		}
	}
	r.mu.Lock()
	r.tops = left
	r.mu.Unlock()
}

func (c *Channel) answerTop(t waitingTop, reply push.Reply) {
	if err := c.reply(t.ref, reply, transport.Delivery{}); err != nil && !errors.Is(err, ErrClosed) {
		c.up.Log(c.driver(), "cannot answer a push", err)
	}
}

// reached reports whether pos is top, or after it in the same log.
func reached(pos, top history.Position) bool {
	return pos.Epoch() == top.Epoch() && pos.Offset() >= top.Offset()
}

// replyToRecording returns the answer to a client whose callback returned the error of a recorded
// broadcast. It reports false for other errors.
func replyToRecording(err error) (push.Reply, bool) {
	switch {
	case errors.Is(err, history.ErrUnavailable), errors.Is(err, history.ErrUncertain), errors.Is(err, history.ErrFull):
		return replyUnavailable, true
	case errors.Is(err, history.ErrReserved):
		return replyMember, true
	case errors.Is(err, history.ErrTooLarge):
		return replyTooLarge, true
	}
	return push.Reply{}, false
}
