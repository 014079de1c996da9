package socket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// TestClientTopicPrefix checks that the topics have the prefix on the wire, in both directions, and
// nowhere else.
func TestClientTopicPrefix(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{TopicPrefix: "eu:"}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := c.Channel("room:1", nil)
		var topics []string
		ch.OnMessage(func(m serializer.Message) { topics = append(topics, m.Topic) })
		mustReply(t, ch.Join())
		other := joined(t, c, "room:2")
		mustReply(t, ch.Push("echo", 1))
		ch.Push("shout", nil) // a broadcast
		mustReply(t, other.Leave())
		if ch.Topic() != "room:1" || c.Stats().Channels[0].Topic != "room:1" {
			t.Errorf("topic %q, in Stats %q", ch.Topic(), c.Stats().Channels[0].Topic)
		}
		if _, err := c.Channel("room:1", nil).Join().Wait(t.Context()); !errors.Is(err, channel.ErrDuplicate) ||
			strings.Contains(err.Error(), "eu:") {
			t.Errorf("another channel with the topic: %v", err)
		}
		joined(t, c, "phoenix")
		if h, ok := c.Lookup("room:1"); h != ch || !ok || c.Subscribe("room:1", nil) != ch {
			t.Error("Lookup or Subscribe does not find the channel by its topic")
		}
		if got := c.Topics(); !slices.Equal(got, []string{"phoenix", "room:1"}) {
			t.Errorf("Topics returned %q", got)
		}
		time.Sleep(time.Minute) // a heartbeat
		p.last().cut(errReset)
		synctest.Wait()
		mustReply(t, ch.Push("echo", 2))
		c.Pause() // over long poll it leaves the channels
		time.Sleep(time.Second)
		synctest.Wait()
		if !slices.Contains(topics, "room:1") || slices.Contains(topics, "eu:room:1") {
			t.Errorf("the topics of messages are %q", topics)
		}
		for _, f := range p.got("heartbeat") {
			topic := strings.Fields(f)[2]
			if topic != "eu:room:1" && topic != "eu:room:2" && topic != "phoenix" {
				t.Errorf("sent %q", f)
			}
		}
		if got := p.got()[0]; got != `"1" "1" eu:room:1 phx_join {}` {
			t.Errorf("sent %q", got)
		}
	})
}

// TestClientTopicPrefixSocket checks that $socket has no prefix.
func TestClientTopicPrefixSocket(t *testing.T) {
	t.Parallel()
	ownBubble(t, ClientConfig{TopicPrefix: "eu:"}, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
		connected(t, c)
		joined(t, c, "room:1")
		if got := p.got(); !strings.Contains(got[0], " $socket phx_join ") || !strings.Contains(got[1], " eu:room:1 ") {
			t.Errorf("sent %q", got)
		}
	})
}

// TestClientTopicPrefixInvalid checks that a client with an invalid prefix fails without a dial.
func TestClientTopicPrefixInvalid(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"$", "$eu:", strings.Repeat("x", 257)} {
		clientBubble(t, ClientConfig{TopicPrefix: prefix}, func(t *testing.T, p *peer, c *Client) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			c.Connect()
			err := c.Ready(ctx)
			if s := c.State(); s.Status != StatusFailed || !errors.Is(err, transport.ErrURL) ||
				!strings.Contains(fmt.Sprint(err), "TopicPrefix") || p.dialCount() != 0 {
				t.Errorf("%q: %v, %v, %d dials", prefix, s, err, p.dialCount())
			}
		})
	}
	clientBubble(t, ClientConfig{TopicPrefix: strings.Repeat("x", 256)}, func(t *testing.T, _ *peer, c *Client) {
		connected(t, c)
	})
}
