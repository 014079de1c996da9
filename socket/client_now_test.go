package socket

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// congestion returns the bytes of pushes that wait for the network.
func congestion(k *clientConn) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waiting
}

// TestClientPushNow checks that PushNow fails if too much waits for the network, and that what is
// written, canceled or cannot be encoded does not count.
func TestClientPushNow(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{Serializer: serializer.V1()}, func(t *testing.T, p *peer, c *Client) {
		offline := c.Channel("room:2", nil).PushNow("echo", 0)
		mustFail(t, offline, push.ErrOffline)
		mustFail(t, offline, channel.ErrNotJoined)
		p.ser = serializer.V1()
		connected(t, c)
		ch := joined(t, c, "room:1")
		mustReply(t, ch.PushNow("echo", 1))

		k := p.last()
		k.change(func() { k.stallOut = true })
		first := ch.PushNow("echo", body(10)) // it is being written
		synctest.Wait()
		second := ch.PushNow("echo", body(64<<10))
		third := ch.PushNow("echo", 3)
		mustFail(t, third, push.ErrOffline)
		second.Cancel()
		mustFail(t, second, push.ErrCanceled)
		fourth := ch.PushNow("echo", 4)
		refused := ch.PushNow("echo", serializer.Binary([]byte("x")))
		large := ch.Push("echo", body(100<<10)) // an ordinary push waits, whatever its size
		mustFail(t, ch.PushNow("echo", 5), push.ErrOffline)
		k.change(func() { k.stallOut = false })
		for _, sent := range []*push.Push{first, fourth, large} {
			mustReply(t, sent)
		}
		mustFail(t, refused, serializer.ErrPayload)
		synctest.Wait()
		if n := congestion(c.current.Load()); n != 0 {
			t.Errorf("%d bytes are said to wait", n)
		}
		mustReply(t, ch.PushNow("echo", 6))
	})
}

// TestClientPushNowLost checks that a push of PushNow that was not handed to the network when the
// connection ended fails with ErrOffline, and is not sent later.
func TestClientPushNowLost(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		k := p.last()
		k.change(func() { k.stallOut = true })
		first := ch.PushNow("echo", "first")
		synctest.Wait()
		second, third := ch.PushNow("echo", "second"), ch.Push("echo", "third")
		synctest.Wait()
		k.cut(errReset)
		mustFail(t, first, push.ErrLost)
		mustFail(t, second, push.ErrOffline)
		if _, err := second.Wait(t.Context()); errors.Is(err, push.ErrLost) || !errors.Is(err, errReset) {
			t.Errorf("the error is %v, want the cause and no ErrLost", err)
		}
		mustReply(t, third)
		time.Sleep(time.Minute)
		if n := p.times(`"second"`); n != 0 {
			t.Errorf("the server received the second push %d times", n)
		}
	})
}

// TestClientPushNowFull checks that a push of PushNow that exceeds MaxBuffer fails with ErrOffline.
func TestClientPushNowFull(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{MaxBuffer: 1000}, func(t *testing.T, _ *peer, c *Client) {
		ch := c.Channel("room:1", nil)
		ch.Join()
		ch.Push("echo", body(900))
		now := ch.PushNow("echo", body(900))
		mustFail(t, now, push.ErrOffline)
		mustFail(t, now, push.ErrFull)
	})
}
