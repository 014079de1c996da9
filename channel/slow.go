package channel

import (
	"fmt"

	"bennu.example/internal/prepare"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// slowRule says how the broadcasts and pushes of an event go to clients that read too slowly.
type slowRule struct {
	policy transport.SlowPolicy
	key    func(payload any) (of string, ok bool) // of KeepLatest; nil: the event has one key
}

// OnSlow says what happens to broadcasts and pushes of an event for a client that reads too slowly, instead of what socket.Config.OnSlow says;
// transport.Inherit leaves that. The event "" stands for all that have no policy of their own. Counts are in socket.Stats.
//
// By transport.KeepLatest only the newest of the event on a topic waits for a client: for events that tell how things are, not how they changed.
// What is dropped leaves no trace, so do not have presence_diff dropped.
func OnSlow[S any](event string, policy transport.SlowPolicy) Option[S] {
	return Option[S]{func(h *Handler) {
		if policy > transport.Inherit {
			panic(fmt.Sprintf("channel: no slow policy %d, for event %q", policy, event))
		}
		h.addSlow(event, slowRule{policy: policy})
	}}
}

// Latest is OnSlow by transport.KeepLatest of several things that one event tells of, such as the cursor of each user: the newest of each key
// waits. The payload is decoded as in On; one that does not decode has no key, and is kept.
//
// Key is called once for a broadcast at each node, however many subscribers there are, and once for a push; on the goroutine of who
// broadcasts or pushes, by several at once, under no lock. If it panics then a broadcast has no key, and its broadcaster gets a *PanicError.
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

// slowRule is the rule for an event.
func (h *Handler) slowRule(event string) slowRule {
	rule, ok := h.slow[event]
	if !ok {
		rule, ok = h.slow[""]
	}
	if !ok {
		rule.policy = transport.Inherit
	}
	return rule
}

// makeKey is the key of one broadcast or push; the zero Key if it has none.
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

// Prepare is part of prepare.Preparer. It returns a transport.Key, or nil for an event of another policy.
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
		return transport.Delivery{Policy: transport.Inherit}
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
