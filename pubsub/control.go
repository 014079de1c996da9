package pubsub

import (
	"context"
	"strings"
)

// Control is a second set of topics, for messages between the nodes' own code. A client cannot reach it: no topic of
// a channel, route or broadcast names a control topic, even one of the same text. Presence, long polling across nodes
// and socket.Handler.Disconnect use it. Programs may use it for messages such as "drop this key from your caches".
//
// Subscribers of a control topic are called as those of a topic are, and Broadcast.Topic is the name as it was given
// here. Names that begin with "bennu:" belong to this module.
type Control struct{ ps *PubSub }

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

// Control returns the control topics of the cluster.
func (p *PubSub) Control() Control { return Control{p} }

// Subscribe adds a subscriber to a control topic until the subscription is cancelled.
func (c Control) Subscribe(name string, s Subscriber) *Subscription {
	return c.ps.subscribe(controlPrefix+name, s)
}

// Subscribers is how many subscriptions this node has for a control topic.
func (c Control) Subscribers(name string) int { return c.ps.subscribers(controlPrefix + name) }

// Broadcast sends an event to all subscribers of a control topic on all nodes. Its payload and its errors are those
// of PubSub.Broadcast.
func (c Control) Broadcast(ctx context.Context, name, event string, payload any) error {
	return c.ps.broadcast(ctx, nil, controlAddress(name), event, payload)
}

// BroadcastFrom is Broadcast to all but the subscriber from, as PubSub.BroadcastFrom is.
func (c Control) BroadcastFrom(ctx context.Context, from Subscriber, name, event string, payload any) error {
	return c.ps.broadcast(ctx, from, controlAddress(name), event, payload)
}

// SendTo sends an event to a control topic's subscribers on one node only, as PubSub.SendTo does.
func (c Control) SendTo(ctx context.Context, node, name, event string, payload any) error {
	return c.ps.sendTo(ctx, node, controlAddress(name), event, payload)
}
