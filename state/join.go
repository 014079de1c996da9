package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/follow"
	"bennu.example/push"
	"bennu.example/serializer"
)

// handler is what the channels of one Config share.
type handler struct {
	o    *Objects
	kind *kind
	cfg  Config
}

func (o *Objects) handler(k *kind, cfg Config) *channel.Handler {
	checkQueries(cfg.Queries)
	h := &handler{o: o, kind: k, cfg: cfg}
	wills := []channel.Option[Session]{channel.AllowWill(h.allowWill), channel.RunWill[Session](h.runWill)}
	return channel.Define(h.join, append(h.options(h.push), wills...)...)
}

// options returns the callbacks of a handler. The function returns that of a push.
func (h *handler) options(push func(name string) callback) []channel.Option[Session] {
	options := []channel.Option[Session]{
		channel.Info(func(s *Session, ctx context.Context, _ *channel.Channel, _ readOn) error {
			if s.member.window != nil {
				return h.turn(ctx, &s.member)
			}
			return h.read(ctx, &s.member)
		}),
		channel.Info(func(_ *Session, _ context.Context, _ *channel.Channel, e ended) error {
			return channel.Stop(e.reason)
		}),
		channel.Reauthorize(func(s *Session, ctx context.Context, c *channel.Channel) error {
			if err := h.allow(ctx, c, Access{Action: Read}); err != nil {
				return channel.Stop(reasonForbidden)
			}
			s.member.refresh() // Visible may depend on the grant
			return nil
		}),
	}
	for _, name := range pushes {
		options = append(options, channel.On(name, push(name)))
	}
	return append(options, h.cfg.Options...)
}

const reasonForbidden push.Reason = "forbidden"

// allow asks Config.Allow. The error is ErrForbidden, or one made by push.Reject.
func (h *handler) allow(ctx context.Context, c *channel.Channel, a Access) error {
	a.Topic = c.Topic()
	if h.cfg.Allow == nil {
		if a.Action == Read {
			return nil
		}
		return ErrForbidden
	}
	err := h.cfg.Allow(ctx, c, a)
	if err == nil {
		return nil
	}
	var rejected *push.Error
	var reason push.Reason
	if errors.As(err, &rejected) || errors.As(err, &reason) {
		return err
	}
	if !errors.Is(err, ErrForbidden) {
		channelhost.Log(c, "access refused", err)
	}
	return ErrForbidden
}

// refusal turns an error into one that refuses a join.
func (h *handler) refusal(c *channel.Channel, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", history.ErrUnavailable, err)
	}
	if errors.Is(err, history.ErrUnavailable) {
		channelhost.Log(c, "store unavailable", err)
	}
	if reply, ok := errorReply(err, false); ok {
		return push.Reject(reply)
	}
	return err
}

// join is the join callback.
func (h *handler) join(s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload) (any, error) {
	reply, err := h.enter(s, ctx, c, p)
	if err != nil {
		return nil, h.refusal(c, err)
	}
	return rawPayload(reply), nil
}

// enter makes the channel a session of its object, and returns the reply.
func (h *handler) enter(s *Session, ctx context.Context, c *channel.Channel, p serializer.Payload) ([]byte, error) {
	params, err := parseJoin(p, h.kind, &h.cfg)
	if err != nil {
		return nil, err
	}
	if err := h.allow(ctx, c, Access{Action: Read}); err != nil {
		return nil, err
	}
	m := &s.member
	m.channel, m.cell, m.keys, m.h = c, h.o.enter(c.Topic()), params.keys, h
	if h.kind.document { // server code may have put other items, which clients do not see
		m.keys = one("")
	}
	if !c.OnEnd(func() { m.cell.leave(m); h.o.exit(m.cell) }) {
		h.o.exit(m.cell)
		return nil, channel.ErrClosed
	}
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	if err := m.cell.begin(waiting); err != nil {
		return nil, err
	}
	if err := h.open(ctx, c, &params); err != nil {
		return nil, err
	}
	if h.isWindow(&params) {
		return h.enterWindow(ctx, m, &params)
	}
	for range maxMarks {
		if reply, err := h.mark(waiting, m, params.since); !errors.Is(err, errMoved) {
			return reply, err
		}
	}
	return nil, fmt.Errorf("%w: %w", history.ErrUnavailable, errMoved)
}

// maxMarks bounds the attempts to begin while the object is removed or made.
const maxMarks = 8

// errMoved reports a page of another object than that of the mark: it was removed or made between.
// The mark would not show this, because all objects that do not exist have the same position.
var errMoved = errors.New("state: the object was removed or made while it was read")

// belongs returns errMoved if a page is not of the object that the mark is of.
func (m *member) belongs(p Page) error {
	if p.Position.Epoch() != m.mark.Epoch() {
		return errMoved
	}
	return nil
}

// open checks whether the object exists, and creates it if the client may.
func (h *handler) open(ctx context.Context, c *channel.Channel, params *joinParams) error {
	creates := params.mode == ModeNew || params.mode == ModeOpen && (params.value != nil || params.ttl > 0)
	if params.mode == ModeOpen && !creates {
		return nil
	}
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	tops, err := h.o.store.Tops(waiting, []string{c.Topic()})
	if err != nil {
		return err
	}
	exists := !tops[0].IsBeginning()
	switch {
	case params.mode == ModeExisting && !exists:
		return ErrNotFound
	case params.mode == ModeNew && exists:
		return ErrExists
	case exists:
		return nil
	}
	if err := h.allow(ctx, c, Access{Action: Create}); err != nil {
		if params.mode == ModeOpen { // it is shown as absent
			return nil
		}
		return err
	}
	var ops []Op
	if h.kind.document {
		value := params.value
		if value == nil {
			value = json.RawMessage("{}")
		}
		if value, err = resolve(value, "", nil, time.Now()); err != nil {
			return err
		}
		ops = []Op{{Value: value}}
	}
	tx := Tx{Writer: writerOf(ctx), Create: ModeNew, TTL: params.ttl, Limits: h.cfg.Limits}
	_, err = h.o.Apply(waiting, c.Topic(), ops, tx)
	if errors.Is(err, ErrExists) && params.mode == ModeOpen { // another client was faster
		return nil
	}
	return err
}

// mark finds out where the client begins, and returns the reply with the first page.
func (h *handler) mark(ctx context.Context, m *member, since history.Position) ([]byte, error) {
	store, topic := h.o.store, m.cell.topic
	top, err := store.Read(ctx, topic, m.keys, "", 0)
	if err != nil {
		return nil, err
	}
	why, more := follow.WhyNew, true
	if !since.IsZero() {
		p, err := store.Changes(ctx, topic, since, m.keys, 0)
		if why = follow.Why(err); err != nil && why == "" {
			return nil, err
		}
		m.mark, more = since, p.More
	}
	now := time.Now()
	reply := h.beginReply()
	if !top.Position.IsBeginning() {
		reply = serializer.AppendString(appendMember(reply, "id"), top.Position.Epoch())
	}
	if why == "" {
		reply = appendText(append(reply, `,"recovered":true`...), "pos", m.mark)
	} else {
		m.mark, m.pages = top.Position, true
		reply = serializer.AppendString(append(reply, `,"recovered":false,"why":`...), why)
		if reply, err = m.firstPage(ctx, reply, now); err != nil {
			return nil, err
		}
		if more = m.pages; !more {
			reply = appendText(reply, "pos", m.mark)
		}
	}
	if more {
		reply = append(reply, `,"more":true`...)
	}
	reply = appendExpiry(reply, top.Expires, now)
	reply = append(h.appendLimits(appendMember(reply, "limits")), "}}"...)
	m.cell.join(m)
	channelhost.Post(m.channel, readOn{})
	return reply, nil
}

// beginReply returns the beginning of the reply to a join, up to the first member of "$state".
func (h *handler) beginReply() []byte {
	reply := append(make([]byte, 0, 256), `{"$state":{"kind":"`...)
	return append(append(reply, h.kind.name...), '"')
}

func (h *handler) appendLimits(dst []byte) []byte {
	l := h.cfg.Limits.WithDefaults()
	if h.kind.document {
		l.Items, l.Batch = 1, 1
	}
	dst = strconv.AppendInt(append(dst, `{"value":`...), int64(l.Value), 10)
	dst = strconv.AppendInt(append(dst, `,"items":`...), int64(l.Items), 10)
	dst = strconv.AppendInt(append(dst, `,"batch":`...), int64(l.Batch), 10)
	return append(dst, '}')
}

// appendText appends a member with a position.
func appendText(dst []byte, name string, p history.Position) []byte {
	dst = append(appendMember(dst, name), '"')
	dst, _ = p.AppendText(dst) // it never fails
	return append(dst, '"')
}

// firstPage appends the first items, or the value of a document.
func (m *member) firstPage(ctx context.Context, reply []byte, now time.Time) ([]byte, error) {
	p, err := m.cell.o.store.Read(ctx, m.cell.topic, m.keys, "", pageItems)
	if err != nil {
		return nil, err
	}
	if err := m.belongs(p); err != nil {
		return nil, err
	}
	m.next, m.pages = p.Next, p.Next != ""
	if !m.h.kind.document {
		return appendEntries(reply, p.Items, now), nil
	}
	it := Item{Value: []byte("null")}
	if len(p.Items) > 0 {
		it = p.Items[0]
	}
	return appendItem(reply, &it, false), nil
}

var errLost = errors.New("state: changes that the client needs are not kept")

// read reads on: pages first, then what has changed since the mark, until the session is live. It
// does one page, and posts itself, so that the client's messages are handled between pages.
func (h *handler) read(ctx context.Context, m *member) error {
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	goOn, err := m.step(waiting)
	switch {
	case err == nil && goOn:
		channelhost.Post(m.channel, readOn{})
	case err == nil || isClosed(err) || ctx.Err() != nil:
	default:
		if !follow.IsLoss(err) && !errors.Is(err, errLost) && !errors.Is(err, errMoved) {
			channelhost.Log(m.channel, "reading an object failed", err)
		}
		channelhost.Lose(m.channel)
	}
	return nil
}

// Limits of a session that reads.
const (
	flipRounds = 8   // attempts to become live, after which the rest is sent under the cell's lock
	lostRounds = 100 // attempts after which the client has to come back
)

// step reads one page and sends it. It reports whether there is more to do now.
func (m *member) step(ctx context.Context) (bool, error) {
	m.cell.mu.Lock()
	stage, cursor := m.stage, m.cell.cursor
	m.cell.mu.Unlock()
	if stage != stageReading {
		return false, nil
	}
	if m.pages {
		// So that the mark stays where the store can continue, however long the pages take.
		if cursor.Epoch() == m.mark.Epoch() && cursor.Offset() > m.mark.Offset()+defaultChanges/4 {
			if more, err := m.sendChanges(ctx, false); err != nil || !more.sent {
				return more.again, err
			}
		}
		return m.sendPage(ctx)
	}
	more, err := m.sendChanges(ctx, true)
	if err != nil || !more.sent {
		return more.again, err
	}
	if more.more {
		return true, nil
	}
	m.rounds++
	switch m.cell.flip(m, m.rounds > flipRounds) {
	case flipLive:
		return false, nil
	case flipAhead:
		if err := m.cell.repair(ctx); err != nil {
			return false, err
		}
	case flipLost:
		return false, errLost
	case flipBehind:
	}
	if m.rounds > lostRounds {
		return false, errLost
	}
	return true, nil
}

// sendPage sends the next page.
func (m *member) sendPage(ctx context.Context) (bool, error) {
	p, err := m.cell.o.store.Read(ctx, m.cell.topic, m.keys, m.next, pageItems)
	if err != nil {
		return false, err
	}
	if err := m.belongs(p); err != nil {
		return false, err
	}
	if len(p.Items) > 0 {
		f := frame{b: pageFrame(m.cell.topic, p.Items, history.Position{})}
		if r, err := m.sendIfRoom(f); err != nil || !r.sent {
			return r.again, err
		}
	}
	m.next, m.pages = p.Next, p.Next != ""
	return true, nil
}

// progress is the result of sending a page.
type progress struct {
	sent  bool // it was sent, or there was nothing to send
	again bool // it was not, and may be sent at once
	more  bool // there are more
}

// sendChanges sends the next page of what has changed since the mark, and moves the mark. Without
// positioned, the client is not sent its position.
func (m *member) sendChanges(ctx context.Context, positioned bool) (progress, error) {
	p, err := m.cell.o.store.Changes(ctx, m.cell.topic, m.mark, m.keys, pageItems)
	if err != nil {
		return progress{}, err
	}
	if len(p.Items) > 0 {
		pos := p.Position
		if !positioned {
			pos = history.Position{}
		}
		f := frame{b: pageFrame(m.cell.topic, p.Items, pos)}
		if m.h.kind.document {
			f = changeFrame(m.cell.topic, p.Items, pos)
		}
		if r, err := m.sendIfRoom(f); err != nil || !r.sent {
			return r, err
		}
	}
	m.mark = p.Position
	return progress{sent: true, more: p.More}, nil
}

// sendIfRoom sends a page if the connection has room for it. Otherwise the session reads on when it
// has.
func (m *member) sendIfRoom(f frame) (progress, error) {
	err := channelhost.Forward(m.channel, f.b, ifRoom)
	if err == nil {
		return progress{sent: true}, nil
	}
	if isNoRoom(err) {
		return progress{again: channelhost.Drained(m.channel, readOn{})}, nil
	}
	return progress{}, err
}
