package channel

import (
	"fmt"

	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// slowRule determines how the broadcasts and pushes of an event are sent to clients that read too
// slowly.
type slowRule struct {
	policy transport.SlowPolicy
	key    func(payload any) (of string, ok bool) // for KeepLatest; nil means that the event has one key
}

// OnSlow determines what happens to broadcasts and pushes of an event for a client that reads too
// slowly. It overrides socket.Config.OnSlow, except with transport.Inherit. The event "" stands for
// all events that have no policy of their own. Counts are in socket.Stats.
//
// A policy does not apply to recorded events for clients that asked for history. They are never
// dropped: the client receives them from the log when it has read what was sent before.
//
// With transport.KeepLatest, only the newest event of a topic waits for a client. This suits events
// that carry a state, not a change. Dropped events leave no trace, so never drop presence_diff.
func OnSlow[S any](event string, policy transport.SlowPolicy) Option[S] {
	return Option[S]{func(h *Handler) {
		if policy > transport.KeepLatest {
			panic(fmt.Sprintf("channel: no slow policy %d, for event %q", policy, event))
		}
		h.addSlow(event, slowRule{policy: policy})
	}}
}

// Latest is OnSlow with transport.KeepLatest for an event that carries several states, such as
// the cursor of each user: the newest event of each key waits. The payload is decoded as in On. A
// payload that cannot be decoded has no key, and is kept.
//
// Key is called once for a broadcast at each node, however many subscribers there are, and once
// for a push. It runs on the goroutine that broadcasts or pushes, under no lock, and may run on
// several goroutines at once. If it panics, the broadcast has no key, and the broadcaster gets a
// *PanicError.
func Latest[S, P any](event string, key func(p P) string) Option[S] {
	decode := decoder[P]()
	return Option[S]{func(h *Handler) {
		h.addSlow(event, slowRule{transport.KeepLatest, func(payload any) (of string, ok bool) {
			// A value is encoded first, so that pushes have the keys that broadcasts have.
			encoded, err := serializer.Value(payload).Encoded()
			if err != nil {
				return "", false
			}
			p, err := decode(encoded)
			if err != nil {
				return "", false
			}
			return key(p), true
		}})
	}}
}

func (h *Handler) addSlow(event string, rule slowRule) {
	if _, ok := h.slow[event]; ok {
		panic(fmt.Sprintf("channel: two slow policies for event %q", event))
	}
	if h.slow == nil {
		h.slow = make(map[string]slowRule)
	}
	h.slow[event] = rule
	if rule.policy == transport.KeepLatest {
		h.preparer = (*keys)(h)
	}
}

// slowRule returns the rule for an event. The zero rule means the policy of the connection.
func (h *Handler) slowRule(event string) slowRule {
	rule, ok := h.slow[event]
	if !ok {
		rule = h.slow[""]
	}
	return rule
}

// makeKey returns the key of one broadcast or push, or the zero Key if it has none.
func (r slowRule) makeKey(topic, event string, payload any) transport.Key {
	of := ""
	if r.key != nil {
		var ok bool
		if of, ok = r.key(payload); !ok {
			return transport.Key{}
		}
	}
	return transport.NewKey(topic, event, of)
}

type preparer = prepare.Preparer[*pubsub.Broadcast]

// keys is a Handler as the preparer of its broadcasts: it computes their keys.
type keys Handler

// Prepare is part of prepare.Preparer. It returns a transport.Key, or nil for an event of another
// policy.
func (k *keys) Prepare(b *pubsub.Broadcast) (any, error) {
	rule := (*Handler)(k).slowRule(b.Event)
	if rule.policy != transport.KeepLatest {
		return nil, nil
	}
	var key transport.Key
	if err := recoverResult(func() { key = rule.makeKey(b.Topic, b.Event, b.Payload) }); err != nil {
		return nil, err
	}
	return key, nil
}

// deliveryOfBroadcast returns how a broadcast is sent to a client. The key is the result of
// keys.Prepare. It is called for each client, under the topic's lock.
func (h *Handler) deliveryOfBroadcast(b *pubsub.Broadcast, key any) transport.Delivery {
	if h.slow == nil {
		return transport.Delivery{}
	}
	how := transport.Delivery{Policy: h.slowRule(b.Event).policy}
	if how.Policy == transport.KeepLatest {
		how.Key, _ = key.(transport.Key)
	}
	return how
}

// deliveryOfPush returns how a push is sent to its client.
func (h *Handler) deliveryOfPush(topic, event string, payload any) transport.Delivery {
	rule := h.slowRule(event)
	how := transport.Delivery{Policy: rule.policy}
	if how.Policy == transport.KeepLatest {
		how.Key = rule.makeKey(topic, event, payload)
	}
	return how
}
