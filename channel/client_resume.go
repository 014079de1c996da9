package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bennu.example/history"
	"bennu.example/internal/durable"
	"bennu.example/push"
	"bennu.example/serializer"
)

// ResumeConfig configures Client.Resume. The zero value is useful.
type ResumeConfig struct {
	// Since is the position after which the first join continues: what Position returned before the
	// program ended. Zero means that the first join has none.
	Since history.Position
	// Last is the number of the newest records to receive if a join cannot continue after a position.
	Last int
	// OnReset is called, if it is not nil, when a join did not continue: records between the last
	// position and this join may be missing, and the program loads its state anew. The reply is that
	// of the join; why is one of the reasons in docs/recovery.md, such as "new" for the first join
	// without a position, or "off" if the server does not record the topic. OnReset is called like a
	// callback of On, before those for any event that follows the join.
	OnReset func(reply serializer.Payload, why string)
}

// Resume asks the server for the topic's history. The channel then receives, through the same
// callbacks and iterators, the records that were broadcast while it had no connection, in order and
// each once. If that is not possible, OnReset is called. It must be called before Join, and once.
//
// The backlog of callbacks and iterators then loses no record: if it is full, the channel waits
// until they have handled half of it, joins again, and continues. An iterator that nobody reads
// therefore holds up the records of the channel.
func (c *Client) Resume(cfg ResumeConfig) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resume.Load() != nil || c.lives > 0 {
		panic("channel: Resume was called twice or after Join")
	}
	c.resume.Store(&clientResume{cfg: cfg, received: cfg.Since, known: make(chan struct{})})
}

// Position returns the position of the last record that was handled: its callbacks began, and every
// open iterator that wants it returned it. A program that stores the position, together with what
// it made of the records, continues there after a restart: see ResumeConfig.Since. It is zero
// before the first join, unless Since is set, and without Resume.
func (c *Client) Position() history.Position { return c.position(false) }

// position returns the position of the last record that was handled, or, if isOver is true, whose
// handling is over: see Keep.
func (c *Client) position(isOver bool) history.Position {
	h := c.resume.Load()
	if h == nil {
		return history.Position{}
	}
	h.mu.Lock()
	received, pos := h.received, h.received
	switch {
	case isOver && h.isRunning:
		pos = h.finished
	case h.waiting > 0:
		pos = h.handled
	}
	h.mu.Unlock()
	e := &c.events
	e.mu.Lock()
	streams := e.streams
	e.mu.Unlock()
	for _, s := range streams {
		if before := s.firstPosition(isOver); before != nil && isOlder(*before, pos, received) {
			pos = *before
		}
	}
	return pos
}

// isOlder reports whether p is older than q. The epoch of the last received position is the newest.
func isOlder(p, q, received history.Position) bool {
	if p.Epoch() == q.Epoch() {
		return p.Offset() < q.Offset()
	}
	return q.Epoch() == received.Epoch()
}

// Progress returns how many of the records that the last join found missing were received, and how
// many there are in total. Both are zero before the first join, and after a join that missed none.
func (c *Client) Progress() (done, total int) {
	h := c.resume.Load()
	if h == nil {
		return 0, 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done, h.total
}

// catchUpRetry is the wait of CatchUp after an answer that may change.
const catchUpRetry = time.Second

// CatchUp waits until every record that the log has now was received and its callbacks have
// returned, and every open iterator that wants it returned it. It waits for a connection and over
// reconnects until ctx ends. It returns history.ErrNoRule if the server does not record the topic,
// and an error that wraps ErrClosed if the channel is closed. It must not be called from a callback
// of the channel, nor on the goroutine that reads one of its iterators.
func (c *Client) CatchUp(ctx context.Context) error {
	h := c.resume.Load()
	if h == nil {
		return fmt.Errorf("channel: catch up with %s: %w", c.topic, errNoResume)
	}
	for {
		top, err := c.pushTop(ctx, h)
		if err == nil {
			err = c.waitHandled(ctx, h, top)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errAgain) && ctx.Err() == nil:
			continue
		case ctx.Err() != nil:
			err = ctx.Err()
		}
		return fmt.Errorf("channel: catch up with %s: %w", c.topic, err)
	}
}

// errNoResume is the error of methods that require Resume.
var errNoResume = errors.New("Resume was not called")

// errAgain reports that the log's top is not known or was not reached, and may be later.
var errAgain = errors.New("not caught up yet")

// pushHistory pushes $history and returns the reply. It waits for the first join. The error is
// history.ErrNoRule if the server does not record the topic, and wraps ErrClosed if the channel is
// closed.
func (c *Client) pushHistory(ctx context.Context, h *clientResume, payload any) (serializer.Payload, error) {
	select {
	case <-h.known:
	case <-c.Done():
		_, cause := c.State()
		return serializer.Payload{}, fmt.Errorf("%w: %w", ErrClosed, cause)
	case <-ctx.Done():
		return serializer.Payload{}, ctx.Err()
	}
	if h.isOff() { // a Phoenix channel would crash by the push
		return serializer.Payload{}, history.ErrNoRule
	}
	p := c.Push(eventHistory, payload)
	reply, err := p.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		p.Cancel()
		err = ctx.Err()
	}
	return reply, err
}

// pushTop asks the server for the log's top, and returns it once all records up to it were
// received.
func (c *Client) pushTop(ctx context.Context, h *clientResume) (top history.Position, err error) {
	reply, err := c.pushHistory(ctx, h, map[string]bool{"top": true})
	refused, isRefused := errors.AsType[*push.Error](err)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return top, ctx.Err()
	case isRefused && refused.Reason() == whyOff:
		return top, history.ErrNoRule
	case isRefused || errors.Is(err, push.ErrFull):
		return top, retryLater(ctx)
	case errors.Is(err, push.ErrLost) && !errors.Is(err, ErrClosed), errors.Is(err, push.ErrTimeout):
		return top, errAgain
	default:
		return top, err
	}
	var answer struct{ Pos history.Position }
	if err := reply.Decode(&answer); err != nil {
		return top, err
	}
	if !h.reached(answer.Pos) { // the backlog was full
		return top, retryLater(ctx)
	}
	return answer.Pos, nil
}

func retryLater(ctx context.Context) error {
	t := time.NewTimer(catchUpRetry)
	defer t.Stop()
	select {
	case <-t.C:
		return errAgain
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitHandled waits until all records up to top were handled.
func (c *Client) waitHandled(ctx context.Context, h *clientResume, top history.Position) error {
	returned := make(chan struct{})
	c.events.enqueue(func() { close(returned) })
	select {
	case <-returned:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		moved := h.notifyMoved()
		switch pos := c.Position(); {
		case !h.reached(top):
			return errAgain // the log is another one now
		case reached(pos, top):
			return nil
		}
		select {
		case <-moved:
		case <-c.events.gone:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// clientResume is what a client's channel knows of its topic's history.
type clientResume struct {
	cfg   ResumeConfig
	known chan struct{} // closed when the first join was answered

	mu          sync.Mutex
	received    history.Position // of the last record in the queues; a rejoin sends it. Only the loop changes it
	handled     history.Position // of the last record whose callbacks began, if waiting is not zero
	waiting     int              // positions in the queue of the callbacks
	isRunning   bool             // the callbacks of handled have not returned
	finished    history.Position // before handled, if isRunning
	done, total int              // of the replay
	off         bool             // the server does not record the topic
	stalled     bool             // the backlog was full: until the next join, records are dropped
	lacking     int              // bytes of the first record that was dropped
	rejoining   bool             // a rejoin was requested because the backlog is no longer full
	moved       chan struct{}    // closed when a position was handled; nil if nobody waits
	mirror      *durable.Mirror  // nil without Keep, and without a life
	forgets     bool             // the life has ended because the client has no right to the topic any more
}

// joinParams returns the params of a join with the request for history.
func (h *clientResume) joinParams(params serializer.Payload) serializer.Payload {
	h.mu.Lock()
	defer h.mu.Unlock()
	ask := map[string]any{"own": false}
	if !h.received.IsZero() {
		ask["since"] = h.received.String()
	}
	if h.cfg.Last > 0 {
		ask["last"] = h.cfg.Last
	}
	return params.With(memberHistory, ask)
}

// joinReply is the part of a reply to a join that concerns history.
type joinReply struct {
	History *struct {
		Pos       history.Position
		Recovered bool
		Missed    int
		Why       string
	} `json:"$history"`
}

// resumeJoined handles the reply to a join.
func (c *Client) resumeJoined(h *clientResume, reply serializer.Payload) {
	var r joinReply
	why := whyOff
	if err := reply.Decode(&r); err != nil {
		r.History = nil // the reply is not an object, or not one of a server with history
	} else if r.History != nil {
		why = r.History.Why
	}
	c.keepAgain(h)
	h.mu.Lock()
	h.off = why == whyOff
	h.stalled, h.rejoining = false, false
	h.done, h.total = 0, 0
	select {
	case <-h.known:
	default:
		close(h.known)
	}
	if r.History != nil && r.History.Recovered {
		h.total = r.History.Missed
		h.mu.Unlock()
		return
	}
	h.expect()
	h.received = history.Position{}
	if r.History != nil {
		h.received, h.total = r.History.Pos, r.History.Missed
	}
	pos := h.received
	h.mu.Unlock()
	c.events.enqueue(func() {
		h.begin(pos)
		if h.cfg.OnReset != nil {
			h.cfg.OnReset(reply, why)
		}
		h.end()
	})
}

// joinRefused forgets a position that the server cannot read.
func (h *clientResume) joinRefused(err error) {
	refused, ok := errors.AsType[*push.Error](err)
	if !ok || refused.Reason() != invalidPosition {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received = history.Position{}
}

// receiveEvent passes an event to the queues of the listeners, unless it is a record that came
// before. A record that came early, between a join and its reply, belongs to an older join, perhaps
// to one whose reply came too late and was ignored. It must not move the position: the next join
// would continue there, and what that reply announced as lost would be lost without a reset.
func (c *Client) receiveEvent(m *serializer.Message, early bool) {
	h := c.resume.Load()
	if h == nil {
		c.enqueueEvent(m, nil)
		return
	}
	pos, isRecord := positionOf(m.Payload)
	switch {
	case m.Event == eventHistory:
		if isRecord && !early {
			h.skipTo(pos)
		}
		return
	case !isRecord:
		c.enqueueEvent(m, nil)
		return
	case early || !h.isNext(pos):
		c.socket.Log().Debug().Str("topic", c.topic).Str("event", m.Event).Stringer("position", pos).
			Msg("record dropped")
		return
	}
	if !c.enqueueEvent(m, &recordPlace{h, h.received, pos}) {
		h.mu.Lock()
		if !h.stalled {
			h.stalled, h.lacking = true, eventSize(m)
		}
		h.mu.Unlock()
		c.rejoinIfDrained(h)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received = pos
	h.done = min(h.done+1, h.total)
	h.notify()
}

// recordPlace is the place of a queued record in the history.
type recordPlace struct {
	h           *clientResume
	before, pos history.Position // before: the position received before it
}

// positionOf returns the position in the payload of a record.
func positionOf(p serializer.Payload) (pos history.Position, ok bool) {
	const start = `{"$pos":"`
	if raw, found := bytes.CutPrefix(p.Bytes(), []byte(start)); found && !p.IsBinary() {
		if end := bytes.IndexByte(raw, '"'); end >= 0 {
			if pos, err := history.ParsePosition(string(raw[:end])); err == nil {
				return pos, true
			}
		}
	}
	if p.IsBinary() {
		return pos, false
	}
	var member struct {
		Pos *history.Position `json:"$pos"`
	}
	if err := p.Decode(&member); err != nil || member.Pos == nil {
		return pos, false
	}
	return *member.Pos, true
}

// isNext reports whether a record is to be handled. A record that was received before comes again
// if the channel joins twice on one connection. While the backlog is full, all are dropped: the
// next join repeats them.
func (h *clientResume) isNext(pos history.Position) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	again := reached(h.received, pos)
	return !h.stalled && !again
}

// skipTo moves the position over records that the channel does not receive.
func (h *clientResume) skipTo(pos history.Position) {
	if !h.isNext(pos) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if pos.Epoch() == h.received.Epoch() {
		h.done = int(min(uint64(h.done)+pos.Offset()-h.received.Offset(), uint64(h.total)))
	}
	h.received = pos
	h.notify()
}

// expect counts a position that is added to the queue of the callbacks. The caller must hold mu and
// change received afterwards.
func (h *clientResume) expect() {
	if h.waiting == 0 {
		h.handled = h.received
	}
	h.waiting++
}

func (h *clientResume) expectRecord() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expect()
}

// begin is called before the callbacks for a position.
func (h *clientResume) begin(pos history.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting--
	h.finished, h.isRunning = h.handled, true
	h.handled = pos
	h.notify()
}

// end is called after the callbacks for a position.
func (h *clientResume) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.isRunning = false
	h.notify()
}

// notify wakes those that wait for a position, and lets it be stored. The caller must hold mu.
func (h *clientResume) notify() {
	if h.mirror != nil {
		h.mirror.Changed()
	}
	if h.moved != nil {
		close(h.moved)
		h.moved = nil
	}
}

// notifyMoved returns a channel that is closed when a position is handled.
func (h *clientResume) notifyMoved() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.moved == nil {
		h.moved = make(chan struct{})
	}
	return h.moved
}

func (h *clientResume) reached(pos history.Position) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return reached(h.received, pos)
}

func (h *clientResume) isOff() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.off
}

// eventLeft is called after an event left a queue.
func (c *Client) eventLeft() {
	c.creditDue()
	h := c.resume.Load()
	if h == nil {
		return
	}
	h.mu.Lock()
	h.notify()
	stalled := h.stalled && !h.rejoining
	h.mu.Unlock()
	if stalled {
		c.rejoinIfDrained(h)
	}
}

// rejoinIfDrained requests a rejoin if the backlog was full and no longer is. It must have room for
// the record that was dropped: the rejoin brings that again, and would be followed by another.
func (c *Client) rejoinIfDrained(h *clientResume) {
	h.mu.Lock()
	lacking := h.lacking
	h.mu.Unlock()
	if !c.events.isDrained(lacking) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stalled && !h.rejoining {
		h.rejoining = true
		c.socket.Post(&clientTimeout{c, inAgain}) // a closed socket needs no rejoin
	}
}
