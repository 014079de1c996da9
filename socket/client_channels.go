package socket

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/clientlink"
	"bennu.example/internal/loop"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// clientSocket is a Client as seen by its channels.
type clientSocket struct{ *Client }

var _ clientlink.Socket = clientSocket{}

func (u clientSocket) Post(t loop.Task) bool              { return u.post(t) }
func (u clientSocket) Done() <-chan struct{}              { return u.loop.Done() }
func (u clientSocket) Closing() error                     { return u.Client.closing() }
func (u clientSocket) Log() *zerolog.Logger               { return u.cfg.Logger }
func (u clientSocket) Total() *clientlink.Totals          { return &u.totals }
func (u clientSocket) Arm(t *loop.Timer, d time.Duration) { u.loop.Arm(t, d) }
func (u clientSocket) Disarm(t *loop.Timer)               { u.loop.Disarm(t) }
func (u clientSocket) Overslept(t *loop.Timer) bool       { return u.overslept(t) }
func (u clientSocket) IsOpen() bool                       { return u.conn != nil }

func (u clientSocket) WatchesChanges() bool { return !u.changes.IsEmpty() }

func (u clientSocket) Changed(change any, size int) {
	v := change.(channel.Change)
	u.changes.Put(&v, size)
}

func (u clientSocket) NextRef() uint64 { return u.nextRef() }

func (u clientSocket) Send(o clientlink.Out) {
	if u.conn == nil { // no channel sends without a connection
		o.Release()
		return
	}
	u.conn.send(o)
}

func (u clientSocket) IsCongested() bool { return u.conn != nil && u.conn.isCongested() }

func (u clientSocket) Withdraw(ref uint64) {
	if u.conn != nil {
		u.conn.withdraw(ref)
	}
}

func (u clientSocket) Attach(topic string, d clientlink.Channel) (busy bool, err error) {
	if u.ended {
		return false, ErrClosed
	}
	if topic == topicSocket && !u.cfg.NoSocketChannel {
		return false, clientlink.ErrTaken
	}
	isAttached := false
	for _, other := range u.topics[topic] {
		switch {
		case other == d:
			isAttached = true
		case !other.IsLeaving():
			return false, clientlink.ErrTaken
		default:
			busy = true
		}
	}
	if isAttached {
		return false, nil
	}
	u.topics[topic] = append(u.topics[topic], d)
	u.handles.attached(topic, d)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.channels = append(u.channels, d)
	return busy, nil
}

func (u clientSocket) Detach(topic string, d clientlink.Channel) {
	isD := func(x clientlink.Channel) bool { return x == d }
	if rest := slices.DeleteFunc(slices.Clone(u.topics[topic]), isD); len(rest) > 0 {
		u.topics[topic] = rest
		switch {
		case len(rest) > 1:
		case u.conn != nil:
			defer rest[0].Freed() // after u.mu is unlocked
		default: // the channel must be notified of the lost connection first
			u.post(clientTask(rest[0].Freed))
		}
	} else {
		delete(u.topics, topic)
	}
	u.handles.detached(topic, d)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.channels = slices.DeleteFunc(slices.Clone(u.channels), isD)
}

// maxTopicPrefix bounds ClientConfig.TopicPrefix, in bytes.
const maxTopicPrefix = 256

// prefixFor returns the prefix that the topic of a channel has on the wire.
func (c *Client) prefixFor(topic string) string {
	if topic == topicSocket || topic == serializer.TopicPhoenix {
		return ""
	}
	return c.cfg.TopicPrefix
}

// checkPrefix returns an error that lets the client fail if TopicPrefix is invalid.
func (c *Client) checkPrefix() error {
	if p := c.cfg.TopicPrefix; len(p) > maxTopicPrefix || strings.HasPrefix(p, "$") {
		return fmt.Errorf("socket: %w: invalid TopicPrefix", transport.ErrURL)
	}
	return nil
}

func (u clientSocket) Own() (wanted, joined bool) {
	return !u.cfg.NoSocketChannel, u.conn != nil && u.own.joined
}

func (u clientSocket) BeginPush() uint64 {
	u.entered++
	u.unanswered++
	return u.entered
}

func (u clientSocket) EndPush(n uint64) {
	u.unanswered--
	for _, f := range u.flushes {
		if n <= f.until {
			f.left--
		}
	}
	u.flushed(false)
}

// nextRef returns the next ref. Only the loop calls it.
func (c *Client) nextRef() uint64 {
	c.refs++
	return c.refs
}

func clientRefText(n uint64) serializer.Ref {
	return serializer.Ref(strconv.Quote(strconv.FormatUint(n, 10)))
}

// clientRefNumber parses a ref that clientRefText returned.
func clientRefNumber(ref serializer.Ref) (n uint64, ok bool) {
	if len(ref) < 3 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(ref[1:len(ref)-1]), 10, 64)
	return n, err == nil
}
