package pubsub

import (
	"context"
	"strings"
)

// control is a second set of topics, for messages that the nodes of a cluster send each other.
// Clients cannot reach it: no topic of a channel, route or broadcast names a control topic, even if
// the text is the same. The type is not exported because only this module uses it.
//
// Subscribers of a control topic are called like those of a topic, and Broadcast.Topic is the name
// that was given here. By convention all names begin with "bennu:".
type control struct{ ps *PubSub }

const (
	// eventDisconnect is the event with which server code closes the sockets of an id.
	eventDisconnect = "disconnect"
	// disconnectPrefix followed by a socket's id is the control topic on which package socket waits
	// for eventDisconnect.
	disconnectPrefix = "bennu:disconnect:"
)

// A key identifies a topic in the maps of a PubSub and for its adapter. The key of a control topic
// is controlPrefix followed by the name. The key of any other topic is its name, with escapePrefix
// in front if the name begins with the reserved byte.
const (
	reserved      = "\x00"
	escapePrefix  = reserved + "t"
	controlPrefix = reserved + "c"
)

// address is a name with its key.
type address struct{ key, name string }

func controlAddress(name string) address { return address{controlPrefix + name, name} }

// topicKey returns the key of a topic.
func topicKey(name string) string {
	if strings.HasPrefix(name, reserved) {
		return escapePrefix + name
	}
	return name
}

// nameOf returns the name of a key. It reports false for a string that is not the key of any topic.
func nameOf(key string) (name string, ok bool) {
	if !strings.HasPrefix(key, reserved) {
		return key, true
	}
	if name, ok = strings.CutPrefix(key, controlPrefix); ok {
		return name, true
	}
	name, ok = strings.CutPrefix(key, escapePrefix)
	return name, ok && strings.HasPrefix(name, reserved)
}

// addressed returns the broadcast for the adapter, with the key as its Topic.
func (b *Broadcast) addressed(key string) *Broadcast {
	if len(b.Topic) == len(key) {
		return b
	}
	return &Broadcast{Topic: key, Event: b.Event, Payload: b.Payload, after: b.after, origin: b.origin}
}

// Control returns the control topics. It is for packages of this module; it is not covered by the
// compatibility promise.
func (p *PubSub) Control() control { return control{p} }

// Subscribe subscribes s to a control topic.
func (c control) Subscribe(name string, s Subscriber) *Subscription {
	return c.ps.subscribe(controlPrefix+name, s)
}

// Subscribers returns the number of subscriptions to a control topic on this node.
func (c control) Subscribers(name string) int { return c.ps.subscribers(controlPrefix + name) }

// Visit calls f with each subscriber of a topic, not of a control topic, on this node. It runs
// under the topic's read lock, as a delivery.
func (c control) Visit(topic string, f func(Subscriber)) { c.ps.visit(topicKey(topic), f) }

// VisitControl is Visit for a control topic.
func (c control) VisitControl(name string, f func(Subscriber)) { c.ps.visit(controlPrefix+name, f) }

func (p *PubSub) visit(key string, f func(Subscriber)) {
	t := p.lock(key)
	if t == nil {
		return
	}
	defer t.mu.RUnlock()
	for _, s := range t.subs {
		f(s.sub)
	}
}

// Broadcast is PubSub.Broadcast for a control topic.
func (c control) Broadcast(ctx context.Context, name, event string, payload any) error {
	return c.ps.broadcast(ctx, nil, controlAddress(name), event, payload)
}

// BroadcastFrom is PubSub.BroadcastFrom for a control topic.
func (c control) BroadcastFrom(ctx context.Context, from Subscriber, name, event string, payload any) error {
	return c.ps.broadcast(ctx, from, controlAddress(name), event, payload)
}

// SendTo is PubSub.SendTo for a control topic.
func (c control) SendTo(ctx context.Context, node, name, event string, payload any) error {
	return c.ps.sendTo(ctx, node, controlAddress(name), event, payload)
}

// BroadcastUnrecorded is PubSub.Broadcast on a topic, not a control topic, of an event that is not
// recorded, whatever the rules are. The event "disconnect" has no special meaning.
func (c control) BroadcastUnrecorded(ctx context.Context, topic, event string, payload any) error {
	return c.ps.broadcast(ctx, nil, address{topicKey(topic), topic}, event, payload)
}

// Topics calls f with each topic that has subscribers on this node, and with their number. Control
// topics are left out. It runs under a lock, and f must not call the PubSub.
func (c control) Topics(f func(topic string, subscribers int)) {
	for i := range c.ps.shards {
		c.ps.shards[i].each(f)
	}
}

func (sh *shard) each(f func(topic string, subscribers int)) {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for key, t := range sh.topics {
		if strings.HasPrefix(key, controlPrefix) {
			continue
		}
		name, _ := nameOf(key)
		t.mu.RLock()
		n := len(t.subs)
		t.mu.RUnlock()
		f(name, n)
	}
}
