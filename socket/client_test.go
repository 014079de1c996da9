package socket

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// clientBubble runs f in virtual time, with a peer and a client of it that is closed afterwards.
func clientBubble(t *testing.T, cfg ClientConfig, f func(t *testing.T, p *peer, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		c := p.client(cfg)
		defer closeClient(t, c)
		f(t, p, c)
	})
}

func connected(t *testing.T, c *Client) {
	t.Helper()
	c.Connect()
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustReply(t *testing.T, p *push.Push) serializer.Payload {
	t.Helper()
	got, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func jsonOf(p serializer.Payload) string {
	text, err := p.JSON()
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestClientEcho(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := c.Channel("room:1", map[string]int{"a": 1})
		mustReply(t, ch.Join())
		if got := jsonOf(mustReply(t, ch.Push("echo", map[string]int{"n": 7}))); got != `{"n":7}` {
			t.Fatal(got)
		}
		_, err := ch.Push("fail", map[string]string{"reason": "no"}).Wait(t.Context())
		var refused *push.Error
		if !errors.As(err, &refused) || refused.Reason() != "no" {
			t.Fatal(err)
		}
	})
}

func TestClientReconnects(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := c.Channel("room:1", nil)
		mustReply(t, ch.Join())
		time.Sleep(time.Minute)
		p.last().cut(errReset)
		synctest.Wait()
		if s := c.State(); s.Status != Waiting || time.Until(s.Until) != 10*time.Millisecond || !errors.Is(s.Cause, errReset) {
			t.Fatalf("%+v", s)
		}
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustReply(t, ch.Push("echo", nil))
	})
	_ = context.Background
	_ = transport.ErrClosed
}
