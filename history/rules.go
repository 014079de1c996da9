package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The defaults of a Keep.
const (
	defaultCount     = 256
	defaultBytes     = 1 << 20
	defaultAge       = time.Hour
	defaultMaxReplay = 1000
)

// Keep determines which events of a topic are recorded, and how much is kept. The oldest records
// are removed if there are more than Count, if their payloads have more than Bytes, or if they are
// older than Age.
type Keep struct {
	// Events are the names of the recorded events. Nil means all events, except those that begin with
	// "phx_", "presence_" or "$". Empty, but not nil, means none.
	Events []string

	Count int           // records; zero means 256
	Bytes int           // bytes of the payloads; zero means 1 MiB. A larger payload is ErrTooLarge
	Age   time.Duration // zero means 1 h

	// MaxReplay is the number of records that one client may be sent when it comes back. A client that
	// missed more starts afresh. Zero means 1,000.
	MaxReplay int

	// NoGap leaves a gap for clients that did not ask for history: what is broadcast while their join
	// callback runs is not sent to them. By default it is sent after the reply to the join.
	NoGap bool
}

// Rules select what is recorded. A key is an exact topic, or a prefix that ends in "*": "room:*"
// matches "room:", "room:1" and "room:a:b", and "*" matches every topic. The exact key wins, then
// the longest prefix, as for channel.Routes.
type Rules map[string]Keep

// Check returns an error if the map is nil, a pattern has "*" in another place than at its end, a
// number is negative, or a rule names an event that cannot be recorded: one that is empty or begins
// with "phx_", "presence_" or "$".
func (r Rules) Check() error {
	if r == nil {
		return errors.New("history: rules are nil")
	}
	for pattern, k := range r {
		if i := strings.IndexByte(pattern, '*'); i >= 0 && i < len(pattern)-1 {
			return fmt.Errorf("history: rule %q: * may only stand at the end", pattern)
		}
		if k.Count < 0 || k.Bytes < 0 || k.Age < 0 || k.MaxReplay < 0 {
			return fmt.Errorf("history: rule %q has a negative number", pattern)
		}
		for _, event := range k.Events {
			if reserved(event) {
				return fmt.Errorf("history: rule %q: event %q cannot be recorded", pattern, event)
			}
		}
	}
	return nil
}

// Rule returns the rule of a topic with its defaults filled in. It reports false if there is none.
// The rule may record no event.
func (r Rules) Rule(topic string) (Keep, bool) {
	k, ok := r[topic]
	if ok && strings.HasSuffix(topic, "*") {
		ok = false // the key is a prefix; it is found below
	}
	for longest, pattern := -1, ""; !ok; {
		for p := range r {
			if prefix, wild := strings.CutSuffix(p, "*"); wild && len(prefix) > longest && strings.HasPrefix(topic, prefix) {
				longest, pattern = len(prefix), p
			}
		}
		if longest < 0 {
			return Keep{}, false
		}
		k, ok = r[pattern], true
	}
	return k.filled(), true
}

// For returns the rule that records an event of a topic, with its defaults filled in. It reports
// false if the event is not recorded.
func (r Rules) For(topic, event string) (Keep, bool) {
	if k, ok := r.Rule(topic); ok && k.Has(event) {
		return k, true
	}
	return Keep{}, false
}

// Has reports whether the rule records an event.
func (k Keep) Has(event string) bool {
	return !reserved(event) && (k.Events == nil || slices.Contains(k.Events, event))
}

// reserved reports whether an event is never recorded. Events of the protocol and of presence have
// a meaning only at the time at which they are sent.
func reserved(event string) bool {
	return event == "" || event[0] == '$' || strings.HasPrefix(event, "phx_") || strings.HasPrefix(event, "presence_")
}

// filled returns k with its defaults.
func (k Keep) filled() Keep {
	k.fill()
	return k
}

func (k *Keep) fill() {
	if k.Count == 0 {
		k.Count = defaultCount
	}
	if k.Bytes == 0 {
		k.Bytes = defaultBytes
	}
	if k.Age == 0 {
		k.Age = defaultAge
	}
	if k.MaxReplay == 0 {
		k.MaxReplay = defaultMaxReplay
	}
}
