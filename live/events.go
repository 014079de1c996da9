package live

import (
	"fmt"
	"sync"
	"time"

	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// watches are the topics whose events pages of this node show.
type watches struct {
	ps *pubsub.PubSub

	mu      sync.Mutex // before the locks of the PubSub, never after them
	byTopic map[string]*watch
}

// A watch keeps the newest events of a topic while pages show them.
type watch struct {
	users int // guarded by watches.mu
	on    *pubsub.Subscription

	mu     sync.Mutex // taken under the topic's lock by Deliver
	events []event    // the oldest first
	bytes  int        // what the texts of events take
	last   uint64     // the number of events that there were
}

// An event is a broadcast on a topic.
type event struct {
	Number   uint64 `json:"number"`
	At       int64  `json:"at"`
	Event    string `json:"event"`
	Payload  string `json:"payload"` // its beginning
	Size     int    `json:"size"`    // of the whole payload
	Recorded bool   `json:"recorded,omitempty"`
}

const (
	maxEvents     = 100
	maxEventBytes = 32 << 10 // of one topic
	maxPayload    = 500
	maxConverted  = 4 << 10 // a larger payload of MessagePack is not converted to JSON
)

// open begins to keep the events of a topic. The caller must call close.
func (w *watches) open(topic string) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byTopic == nil {
		w.byTopic = make(map[string]*watch)
	}
	k := w.byTopic[topic]
	if k == nil {
		k = new(watch)
		k.on = w.ps.Subscribe(topic, k)
		w.byTopic[topic] = k
	}
	k.users++
	return k
}

func (w *watches) close(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.byTopic[topic]
	if k.users--; k.users == 0 {
		delete(w.byTopic, topic)
		k.on.Cancel()
	}
}

// topics returns the topics to which this node is subscribed for its pages.
func (w *watches) topics() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string]bool, len(w.byTopic))
	for topic := range w.byTopic {
		all[topic] = true
	}
	return all
}

// Deliver is part of pubsub.Subscriber. It keeps the event, and forgets the oldest ones beyond the
// bounds.
func (k *watch) Deliver(b *pubsub.Broadcast) error {
	text, size := beginning(b.Payload)
	e := event{
		At: time.Now().UnixMilli(), Event: clip(b.Event, maxName), Payload: text, Size: size, Recorded: b.Record() != nil,
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last++
	e.Number = k.last
	k.events = append(k.events, e)
	k.bytes += e.cost()
	drop := 0
	for ; len(k.events)-drop > maxEvents || k.bytes > maxEventBytes; drop++ {
		k.bytes -= k.events[drop].cost()
	}
	if drop > 0 {
		n := copy(k.events, k.events[drop:])
		clear(k.events[n:])
		k.events = k.events[:n]
	}
	return nil
}

func (e *event) cost() int { return len(e.Event) + len(e.Payload) + 64 }

// after returns the events after the one of a number, and the number of the last event.
func (k *watch) after(number uint64) (events []event, last uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.events {
		if e.Number > number {
			events = append(events, e)
		}
	}
	return events, k.last
}

// beginning returns the beginning of a payload as text, and its size. It is called under a lock of
// the PubSub, so it does not convert large payloads.
func beginning(p serializer.Payload) (text string, size int) {
	raw := p.Bytes()
	size = len(raw)
	switch {
	case p.IsBinary():
		return fmt.Sprintf("(%d bytes)", size), size
	case size == 0:
		return "{}", size
	case raw[0] == '{' || raw[0] == '[' || raw[0] == '"': // JSON
		return clip(string(raw[:min(size, maxPayload+1)]), maxPayload), size
	case size <= maxConverted:
		if json, err := p.JSON(); err == nil {
			return clip(string(json), maxPayload), size
		}
	}
	return fmt.Sprintf("(%d bytes of MessagePack)", size), size
}
