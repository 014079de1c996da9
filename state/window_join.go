package state

import (
	"context"
	"math"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/push"
	"bennu.example/serializer"
)

// scanPatience bounds how long a client waits until an object was read for it.
const scanPatience = 10 * time.Second

// whyWindow is why a window session does not continue.
const whyWindow = "window"

// rows returns the largest number of items of a query or of what Config.Visible permits.
func (h *handler) rows() int { return h.cfg.Limits.WithDefaults().Rows }

// isWindow reports whether a join is that of a window session.
func (h *handler) isWindow(params *joinParams) bool {
	return params.n > 0 || params.match != nil || h.hasView()
}

// enterWindow makes the session one with a window, and returns the reply to the join.
func (h *handler) enterWindow(ctx context.Context, m *member, params *joinParams) ([]byte, error) {
	w := &window{n: int32(min(params.n, math.MaxInt32)), match: params.match, busy: true}
	m.window = w
	m.cell.join(m) // changes wait from here on
	found, err := m.load(ctx)
	if err != nil {
		return nil, err
	}
	for i := range found.items {
		w.rows = append(w.rows, row{found.items[i].Key, found.items[i].Rev})
	}
	first := found.items[:pageOf(found.items)]
	w.leave(found.items[len(first):])
	now := time.Now()
	reply := h.beginReply()
	if !found.first.Position.IsBeginning() {
		reply = serializer.AppendString(appendMember(reply, "id"), found.first.Position.Epoch())
	}
	reply = serializer.AppendString(append(reply, `,"recovered":false,"why":`...), whyWindow)
	if h.kind.document {
		it := Item{Value: []byte("null")}
		if len(first) > 0 {
			it = first[0]
		}
		reply = appendItem(reply, &it, false)
	} else {
		reply = appendEntries(reply, first, now)
	}
	if w.unsent != nil {
		reply = append(reply, `,"more":true`...)
	}
	reply = appendExpiry(reply, found.first.Expires, now)
	reply = append(h.appendLimits(appendMember(reply, "limits")), "}}"...)
	channelhost.Post(m.channel, readOn{})
	return reply, nil
}

// pageOf returns how many items make the first page.
func pageOf(items []Item) int {
	size := 0
	for i := range items {
		if size += len(items[i].Key) + len(items[i].Value); i > 0 && size > pageBytes || i == pageItems {
			return i
		}
	}
	return len(items)
}

// queryPages bounds the pages that one push of a query reads.
const queryPages = 16

// queryPage handles a push that reads a page of a query's result.
func (h *handler) queryPage(m *member, ctx context.Context, in members) (push.Reply, error) {
	if h.kind.document {
		return push.NoReply, invalid(pushQuery)
	}
	match, err := in.named(h.cfg.Queries)
	if err != nil {
		return push.NoReply, err
	}
	most, next, err := m.takePage(in)
	if err != nil {
		return push.NoReply, err
	}
	waiting, cancel := h.o.patient(ctx)
	defer cancel()
	var items []Item
	size := 0
	for page := 0; ; page++ {
		p, err := h.o.store.Read(waiting, m.cell.topic, Range{}, next, pageItems)
		if err != nil {
			return push.NoReply, storeError(waiting, err)
		}
		next = p.Next
		for i := range p.Items {
			it := &p.Items[i]
			if !match(it.Key, value{text: it.Value}) || !h.shows(ctx, m.channel, it) {
				continue
			}
			if len(items) == most || len(items) > 0 && size+len(it.Value) > pageBytes {
				next = it.Key
				break
			}
			size += len(it.Key) + len(it.Value)
			items = append(items, *it)
		}
		if next == "" || next != p.Next || page == queryPages {
			return pageReply(items, next), nil
		}
	}
}

// page takes the members that name a page.
func (m members) page() (most int, next string, err error) {
	most = pageItems
	if _, err := m.take("max", &most); err != nil || most < 1 {
		return 0, "", invalid("max")
	}
	if _, err := m.take("next", &next); err != nil {
		return 0, "", err
	}
	return min(most, pageItems), next, m.rest()
}

// pageReply is the reply to a push that reads a page.
func pageReply(items []Item, next string) push.Reply {
	text := appendEntries([]byte{'{'}, items, time.Now())
	if next != "" {
		text = serializer.AppendString(appendMember(text, "next"), next)
	}
	return ok(append(text, '}'))
}

// visible returns those items that a channel may see.
func (h *handler) visible(ctx context.Context, c *channel.Channel, items []Item) []Item {
	if !h.hasView() {
		return items
	}
	var shown []Item
	for i := range items {
		if h.shows(ctx, c, &items[i]) {
			shown = append(shown, items[i])
		}
	}
	return shown
}

// hide removes the value from a conflict if the channel may not see it.
func (h *handler) hide(ctx context.Context, c *channel.Channel, conflict *ConflictError) error {
	it := Item{Key: conflict.Key, Rev: conflict.Rev, Value: conflict.Value}
	if conflict.Value == nil || h.shows(ctx, c, &it) {
		return conflict
	}
	hidden := *conflict
	hidden.Value = nil
	return &hidden
}
