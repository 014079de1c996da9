package live

import (
	"context"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/key"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/socket"
)

// The nodes of a cluster exchange messages on two control topics. All nodes listen to questions. A
// node listens to the answers while a page is open on it.
const (
	topicAsk    = "bennu:live:ask"
	topicAnswer = "bennu:live:answer"

	eventSummary    = "summary"    // a question; the answer is a summary
	eventMembers    = "members"    // a question with a topic; the answer is a memberList
	eventDisconnect = "disconnect" // a request with a connection, without an answer
)

// A question is sent to all nodes.
type question struct {
	Version    int    `json:"version"`
	Topic      string `json:"topic,omitempty"`
	Connection string `json:"connection,omitempty"`
}

// A memberList is the members of a topic on one node.
type memberList struct {
	Version int      `json:"version"`
	ID      string   `json:"id"` // of the Handler
	Node    string   `json:"node"`
	Topic   string   `json:"topic"`
	Total   int      `json:"total"`
	Members []member `json:"members"` // some of them
}

// A member is a channel.
type member struct {
	Connection string `json:"connection"`
	Client     string `json:"client"`
	ID         string `json:"id,omitempty"`
	Begun      int64  `json:"begun"` // of the connection
	Mailbox    int    `json:"mailbox"`
}

// nodes is what this node knows of all. It is owned by the goroutine of Handler.in.
type nodes struct {
	own  *summary             // the last one of this node
	at   time.Time            // when it was computed
	took [2]time.Duration     // by it, and by the one before
	seen map[string]time.Time // when each node has answered, by id
}

const (
	maxNodes   = 64 // that a page shows
	maxMembers = 100
	// forget is how long a silent node takes one of the maxNodes.
	forget = time.Minute
	// share bounds the part of a processor that summaries take: a new one is computed at the earliest
	// after this many times its duration.
	share = 50
)

// inbox enqueues the messages of the nodes, because Deliver must not wait, and not use the PubSub.
type inbox struct{ h *Handler }

// Deliver is part of pubsub.Subscriber. A message that finds no room is dropped: the page asks
// again soon.
func (i inbox) Deliver(b *pubsub.Broadcast) error {
	if size := len(b.Payload.Bytes()); size <= maxMessage {
		_ = i.h.in.Enqueue(b, size)
	}
	return nil
}

// observe counts the pages that are open on this node. While there are any, it listens to answers.
func (h *Handler) observe(more int) {
	h.mu.Lock()
	h.observers += more
	var stop *pubsub.Subscription
	switch {
	case h.observers == 0:
		stop, h.answers = h.answers, nil
	case h.answers == nil:
		h.answers = h.cfg.PubSub.Control().Subscribe(topicAnswer, inbox{h})
	}
	h.mu.Unlock()
	if stop != nil {
		stop.Cancel()
	}
}

// ask asks all nodes, this one included.
func (h *Handler) ask(ctx context.Context, event string, q question) error {
	q.Version = version
	return h.cfg.PubSub.Control().Broadcast(ctx, topicAsk, event, q)
}

// askSummaries asks for summaries unless another page of this node has done so just before.
func (h *Handler) askSummaries(ctx context.Context) {
	now, last := time.Now().UnixNano(), h.lastAsk.Load()
	if last != 0 && now-last < int64(h.every/4) || !h.lastAsk.CompareAndSwap(last, now) {
		return
	}
	h.try(h.ask(ctx, eventSummary, question{}))
}

// try logs the error of a message to the nodes. The page asks again soon. This node has the message
// even if the engine does not take it.
func (h *Handler) try(err error) {
	if err != nil {
		h.log.Debug().Err(err).Msg("live: message to the nodes not sent")
	}
}

// handle handles a message of a node, on the goroutine of Handler.in. Malformed ones, and those of
// another version, are ignored.
func (h *Handler) handle(b *pubsub.Broadcast) {
	if b.Topic == topicAnswer {
		h.forward(b)
		return
	}
	var q question
	if b.Payload.Decode(&q) != nil || q.Version != version {
		return
	}
	switch b.Event {
	case eventSummary:
		h.respond(b.Event, h.current())
	case eventMembers:
		h.respond(b.Event, h.members(q.Topic))
	case eventDisconnect:
		h.disconnect(q.Connection)
	}
}

// respond sends an answer to the nodes that have a page open.
func (h *Handler) respond(event string, payload any) {
	h.try(h.cfg.PubSub.Control().Broadcast(context.Background(), topicAnswer, event, payload))
}

// current returns a summary that is not too old.
func (h *Handler) current() *summary {
	n := &h.nodes
	took := min(n.took[0], n.took[1]) // one that took long may have waited for a processor
	if n.own == nil || time.Since(n.at) >= max(h.every/4, share*took) {
		n.at = time.Now()
		n.own = h.summarize()
		n.took = [2]time.Duration{time.Since(n.at), n.took[0]}
	}
	return n.own
}

// forward sends an answer of a node to the pages that are open on this one.
func (h *Handler) forward(b *pubsub.Broadcast) {
	var to string
	var payload any
	switch b.Event {
	case eventSummary:
		s := new(summary)
		if b.Payload.Decode(s) != nil || s.Version != version || s.ID == "" || !h.nodes.note(s.ID) {
			return
		}
		s.bound()
		to, payload = topicLive, s
	case eventMembers:
		l := new(memberList)
		if b.Payload.Decode(l) != nil || l.Version != version || l.ID == "" || !h.nodes.note(l.ID) {
			return
		}
		l.bound()
		to, payload = topicPrefix+l.Topic, l
	default:
		return
	}
	h.try(h.own.PubSub().LocalBroadcast(to, b.Event, payload))
}

// note notes that a node has answered. It reports false if there are more than maxNodes.
func (n *nodes) note(id string) bool {
	now := time.Now()
	if _, known := n.seen[id]; !known && len(n.seen) >= maxNodes {
		for other, at := range n.seen {
			if now.Sub(at) > forget {
				delete(n.seen, other)
			}
		}
		if len(n.seen) >= maxNodes {
			return false
		}
	}
	if n.seen == nil {
		n.seen = make(map[string]time.Time)
	}
	n.seen[id] = now
	return true
}

// members returns the members of a topic on this node.
func (h *Handler) members(topic string) *memberList {
	l := &memberList{Version: version, ID: h.id, Node: h.name(), Topic: topic}
	var some []*channel.Channel
	h.cfg.PubSub.Control().Visit(topic, func(s pubsub.Subscriber) {
		m, ok := s.(channelhost.Member)
		if !ok {
			return
		}
		if l.Total++; l.Total <= maxMembers {
			some = append(some, m.Channel().(*channel.Channel))
			_, bytes := m.Queued()
			l.Members = append(l.Members, member{Mailbox: bytes})
		}
	})
	for i, c := range some { // its methods are called under no lock
		info, _ := socket.InfoFrom(c.Context())
		m := &l.Members[i]
		m.Connection, m.Client, m.ID = info.ConnectionID, info.ClientID, info.Subject
		if begun, err := key.Time(m.Connection); err == nil {
			m.Begun = begun.UnixMilli()
		}
	}
	l.bound()
	return l
}

// bound enforces the bounds of a list, except for that of its topic, which a page has chosen.
func (l *memberList) bound() {
	l.ID, l.Node = clip(l.ID, maxName), clip(l.Node, maxName)
	l.Members = first(l.Members, maxMembers)
	for i := range l.Members {
		m := &l.Members[i]
		m.Connection, m.Client, m.ID = clip(m.Connection, maxName), clip(m.Client, maxName), clip(m.ID, maxName)
	}
}

// disconnect ends a connection, if it is one of this node.
func (h *Handler) disconnect(connection string) {
	for _, sockets := range h.watched() {
		for c := range sockets.Connections() {
			if connection != "" && c.ConnectionID == connection {
				c.Disconnect()
				return
			}
		}
	}
}

// kick removes a member from a topic, on whichever node it is.
func (h *Handler) kick(ctx context.Context, topic string, who socket.Member, reason string) error {
	all := h.watched()
	if len(all) == 0 {
		return errNotWatched
	}
	return all[0].Kick(ctx, topic, who, push.Reason(reason))
}
