package socket

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/serializer"
)

func TestClientSubscribe(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.set(func() { p.busy = time.Second })
		connected(t, c)
		handles := make([]*channel.Client, 10)
		var wg sync.WaitGroup
		for i := range handles {
			wg.Go(func() { handles[i] = c.Subscribe("room:1", nil) })
		}
		wg.Wait()
		room := handles[0]
		for _, h := range handles {
			if h != room {
				t.Fatal("concurrent calls returned two channels")
			}
		}
		said := 0
		room.On("shout", func(serializer.Payload) { said++ })
		mustReply(t, room.Join())
		if h, ok := c.Lookup("room:1"); h != room || !ok {
			t.Fatal(h, ok)
		}

		leave := room.Leave() // for all
		if c.Subscribe("room:1", nil) != room {
			t.Fatal("another channel while it is leaving")
		}
		mustReply(t, leave)
		mustReply(t, room.Join())
		mustReply(t, room.Leave())
		if h, ok := c.Lookup("room:1"); ok {
			t.Fatal(h)
		}
		if c.Subscribe("room:1", nil) != room {
			t.Fatal("another channel after it was left")
		}
		room.Push("shout", nil)
		mustReply(t, room.Push("echo", nil))
		synctest.Wait()
		if said != 1 {
			t.Fatalf("%d events by the callback of the first life", said)
		}

		other := c.Channel("room:2", nil)
		other.Join()
		if c.Subscribe("room:2", nil) != other {
			t.Fatal("Subscribe did not return the channel of the program")
		}
		other.Leave()
		next := c.Channel("room:2", nil)
		next.Join()
		if h, _ := c.Lookup("room:2"); h != next {
			t.Fatal("Lookup returned the channel that is leaving")
		}
		if got := c.Topics(); !slices.Equal(got, []string{"room:1", "room:2"}) {
			t.Fatal(got)
		}
	})
}

// TestClientSubscribeForgets checks that the closed channels that Subscribe remembers are bounded,
// and that it remembers all others.
func TestClientSubscribeForgets(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		topic := func(i int) string { return fmt.Sprintf("room:%d", i) }
		kept := c.Subscribe("kept", nil)
		var list []*channel.Client
		for i := range clientHandlesKept + 2 {
			list = append(list, c.Subscribe(topic(i), nil))
			mustReply(t, list[i].Leave())
		}
		for _, i := range []int{2, clientHandlesKept + 1, 1, 0} {
			h := c.Subscribe(topic(i), nil)
			if is := i > 1; (h == list[i]) != is {
				t.Errorf("channel %d of %d: the same one again: %t, want %t", i, len(list), h == list[i], is)
			}
			mustReply(t, h.Leave())
		}
		if c.Subscribe("kept", nil) != kept {
			t.Error("a channel that was not closed was forgotten")
		}
		if n, most := len(c.handles.byTopic), clientHandlesKept+1; n != most || len(c.handles.closed) != most-1 {
			t.Errorf("%d channels are remembered, %d of them closed", n, len(c.handles.closed))
		}
		closeClient(t, c)
		mustFail(t, c.Subscribe("room:1", nil).Join(), channel.ErrClosed)
		if h, ok := c.Lookup("kept"); ok || len(c.Topics()) > 0 {
			t.Error(h, c.Topics())
		}
	})
}
