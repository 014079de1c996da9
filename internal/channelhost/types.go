package channelhost

import "reflect"

// TypesOf returns the types of a *channel.Handler, for package tsgen.
var TypesOf func(handler any) Types

// Types are the types of a handler's payloads. A type is an interface if nothing else is known.
type Types struct {
	Params, Reply reflect.Type          // of a join
	Events        map[string]EventTypes // that clients push
	Sent          map[string]reflect.Type
	Any           bool // clients may push any event
}

// EventTypes are the types of a push and of its reply, which may be push.Reply.
type EventTypes struct{ Payload, Reply reflect.Type }

// AddEvent adds an event that clients push.
func (t *Types) AddEvent(event string, payload, reply reflect.Type) {
	if t.Events == nil {
		t.Events = make(map[string]EventTypes)
	}
	t.Events[event] = EventTypes{payload, reply}
}

// AddSent adds an event that clients receive. It reports false if the event was added before.
func (t *Types) AddSent(event string, payload reflect.Type) bool {
	if t.Sent == nil {
		t.Sent = make(map[string]reflect.Type)
	}
	_, ok := t.Sent[event]
	t.Sent[event] = payload
	return !ok
}
