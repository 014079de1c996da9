package pubsub

import (
	"context"
	"strings"
)

// control is a second set of topics, for messages that the nodes of a cluster send each other. Clients
// cannot reach it: no topic of a channel, route or broadcast names a control topic, even if the text is
// the same. The type is not exported because only this module uses it.
//
// Subscribers of a control topic are called like those of a topic, and Broadcast.Topic is the name that
// was given here. All names begin with "bennu:".
type control struct{ ps *PubSub }

const (
	// eventDisconnect is the event by which server code closes the sockets of an id.
	eventDisconnect = "disconnect"
	// disconnectPrefix and a socket's id are the control topic on which package socket listens for eventDisconnect.
	disconnectPrefix = "bennu:disconnect:"
)

// A key names a topic in the maps of a PubSub and to its adapter. The key of a control topic is controlPrefix and its
// name. The key of a topic is its name, with escapePrefix in front if the name begins with the reserved byte.
const (
	reserved      = "\x00"
	escapePrefix  = reserved + "t"
	controlPrefix = reserved + "c"
)

// address is a name and its key.
type address struct{ key, name string }

func controlAddress(name string) address { return address{controlPrefix + name, name} }

// topicKey is the key of a topic.
func topicKey(name string) string {
	if strings.HasPrefix(name, reserved) {
		return escapePrefix + name
	}
	return name
}

// nameOf is the name behind a key. It reports false if no PubSub makes such a key.
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

// addressed is the broadcast as the adapter gets it, whose Topic is the key.
func (b *Broadcast) addressed(key string) *Broadcast {
	if len(b.Topic) == len(key) {
		return b
	}
	return &Broadcast{Topic: key, Event: b.Event, Payload: b.Payload}
}

// Control returns the control topics. It is for packages of this module; it is not covered by the
// compatibility promise.
func (p *PubSub) Control() control { return control{p} }

// Subscribe adds a subscriber to a control topic until the subscription is cancelled.
func (c control) Subscribe(name string, s Subscriber) *Subscription {
	return c.ps.subscribe(controlPrefix+name, s)
}

// Subscribers is how many subscriptions this node has for a control topic.
func (c control) Subscribers(name string) int { return c.ps.subscribers(controlPrefix + name) }

// Broadcast sends an event to all subscribers of a control topic on all nodes. Its payload and its errors are those
// of PubSub.Broadcast.
func (c control) Broadcast(ctx context.Context, name, event string, payload any) error {
	return c.ps.broadcast(ctx, nil, controlAddress(name), event, payload)
}

// BroadcastFrom is Broadcast to all but the subscriber from, as PubSub.BroadcastFrom is.
func (c control) BroadcastFrom(ctx context.Context, from Subscriber, name, event string, payload any) error {
	return c.ps.broadcast(ctx, from, controlAddress(name), event, payload)
}

// SendTo sends an event to a control topic's subscribers on one node only, as PubSub.SendTo does.
func (c control) SendTo(ctx context.Context, node, name, event string, payload any) error {
	return c.ps.sendTo(ctx, node, controlAddress(name), event, payload)
}
