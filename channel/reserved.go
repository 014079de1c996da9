package channel

import (
	"errors"
	"fmt"
	"strings"

	"bennu.example/push"
	"bennu.example/serializer"
)

// errReserved is the error of a broadcast whose event is reserved.
var errReserved = errors.New("the event is reserved")

// reserved reports whether clients trust an event because only the server sends it: the events of
// the protocol and of presence, chan_reply_<ref>, by which phoenix.js finds the callbacks of a
// push, and extensions, whose names begin with $. A client that could send them to other clients
// would close their channels, answer their pushes or forge their lists.
func reserved(event string) bool {
	switch event {
	case serializer.EventJoin, serializer.EventLeave, serializer.EventReply, serializer.EventError, serializer.EventClose,
		"presence_state", "presence_diff":
		return true
	}
	return isExtension(event) || strings.HasPrefix(event, "chan_reply_")
}

// isExtension reports whether a topic or an event belongs to extensions of the protocol. A client
// that did not ask for one never receives such an event.
func isExtension(name string) bool { return strings.HasPrefix(name, "$") }

// refuses reports whether a client's push of an event does not reach the handler's callbacks: it is
// reserved, and the handler has no On for it.
func (h *Handler) refuses(event string) bool {
	if !reserved(event) {
		return false
	}
	_, ok := h.events[event]
	return !ok
}

// refuseReserved answers a push of a reserved event. Without OnAny, it crashes the channel as any
// event without a callback does.
func (c *Channel) refuseReserved(it *item) {
	if c.h.any == nil {
		c.settle(it, push.NoReply, noCallback(it.event))
		return
	}
	if !c.warnedReserved { // once per channel, so that a client cannot flood the log
		c.warnedReserved = true
		c.up.Log(c.driver(), "push of a reserved event refused", fmt.Errorf("channel: event %q: %w", it.event, errReserved))
	}
	c.settle(it, replyReserved, nil)
}

func noCallback(event string) error { return fmt.Errorf("channel: no callback for event %q", event) }
