package channel

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"bennu.example/internal/loop"
	"bennu.example/push"
	"bennu.example/serializer"
)

// clientWillRetry is the time after which a will is set again that the server could not set.
const clientWillRetry = 5 * time.Second

// Will asks the server to broadcast an event on the topic when this client's connection has ended
// and the time after has passed, unless the client has joined the topic again by then. A negative
// time means the server's, 15 s. If lostOnly is true, the event is broadcast only if the connection
// was lost, not if this client has closed it. See docs/presence.md for what is guaranteed.
//
// The will is set after each join of the channel until cancel is called, which also deletes it on
// the server. The payload is encoded now, and must be an object of at most 4 KiB; nil means an
// empty one. The server's handler must allow wills. If it refuses this one, that is logged. Servers
// without wills, such as Phoenix, ignore it.
//
// The socket needs the channel $socket: see socket.ClientConfig.NoSocketChannel. Will may be called
// before Join.
func (c *Client) Will(event string, payload any, after time.Duration, lostOnly bool) (cancel func()) {
	return c.addWill(event, payload, after, lostOnly, false)
}

// WillOnce is Will for the next end of the connection only. The will is not set again on another
// connection.
func (c *Client) WillOnce(event string, payload any, after time.Duration, lostOnly bool) (cancel func()) {
	return c.addWill(event, payload, after, lostOnly, true)
}

// clientWill is a will of a channel. It belongs to the loop.
type clientWill struct {
	c      *Client
	params clientWillParams
	once   bool

	canceled   bool
	id         string // on the server; empty if it is not set
	connection uint64 // on which it was sent last
	timer      loop.Timer
}

// clientWillParams is the payload of the push "will".
type clientWillParams struct {
	Topic    string             `json:"topic"`
	Event    string             `json:"event"`
	Payload  serializer.Payload `json:"payload"`
	AfterMS  int64              `json:"after_ms"`
	LostOnly bool               `json:"lost_only,omitempty"`
}

type clientWillID struct {
	Will string `json:"will"`
}

// clientWillTask sets a will, if the channel is joined.
type clientWillTask clientWill

func (t *clientWillTask) Run() { (*clientWill)(t).set() }

type clientWillFunc func()

func (f clientWillFunc) Run() { f() }

func (c *Client) addWill(event string, payload any, after time.Duration, lostOnly, once bool) (cancel func()) {
	w := &clientWill{c: c, once: once, params: clientWillParams{
		Topic: c.wire, Event: event, AfterMS: after.Milliseconds(), LostOnly: lostOnly,
	}}
	if after < 0 {
		w.params.AfterMS = -1
	}
	var err error
	if w.params.Payload, err = serializer.Value(payload).Encoded(); err != nil {
		c.logWill(w, err)
		return func() {}
	}
	w.timer.Task = (*clientWillTask)(w)
	c.socket.Post(clientWillFunc(func() {
		c.wills = append(c.wills, w)
		w.set()
	}))
	return func() { c.socket.Post(clientWillFunc(w.cancel)) }
}

// setWills sets all wills after a join.
func (c *Client) setWills() {
	for _, w := range slices.Clone(c.wills) {
		w.set()
	}
}

// set sets the will, if the channel is joined.
func (w *clientWill) set() {
	c := w.c
	if w.canceled || c.state.status != StateJoined {
		return
	}
	if w.once && w.id != "" && w.connection != c.socket.Connection() {
		w.id = ""
		w.cancel() // it was set, for the end of another connection
		return
	}
	if !c.socket.PushOwn("will", serializer.Value(w.params), w.answered) {
		c.logWill(w, errNoOwn)
		return
	}
	w.id, w.connection = "", c.socket.Connection()
}

// answered handles the server's reply.
func (w *clientWill) answered(m *serializer.Message) {
	var got clientWillID
	if m.Status == push.StatusOK && m.Payload.Decode(&got) == nil && got.Will != "" {
		if w.id = got.Will; w.canceled {
			w.unset()
		}
		return
	}
	err := &push.Error{Payload: m.Payload}
	w.c.logWill(w, err)
	if reason := err.Reason(); reason == "unavailable" || reason == "rate" {
		w.c.socket.Arm(&w.timer, clientWillRetry)
	}
}

func (w *clientWill) cancel() {
	if w.canceled {
		return
	}
	w.canceled = true
	w.c.socket.Disarm(&w.timer)
	w.c.wills = slices.DeleteFunc(w.c.wills, func(other *clientWill) bool { return other == w })
	if w.id != "" {
		w.unset()
	}
}

// unset deletes the will on the server. One of an earlier connection is unknown there.
func (w *clientWill) unset() {
	w.c.socket.PushOwn("unwill", serializer.Value(clientWillID{w.id}), nil)
	w.id = ""
}

var errNoOwn = errors.New("channel: the server has no channel $socket")

func (c *Client) logWill(w *clientWill, err error) {
	c.socket.Log().Warn().Err(fmt.Errorf("channel: will: %w", err)).Str("topic", c.topic).
		Str("event", w.params.Event).Msg("will not set")
}
