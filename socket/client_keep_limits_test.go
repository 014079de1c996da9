package socket

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/offline"
)

// keepTopics joins topics with a policy, one second after the other, and returns their channels.
func keepTopics(t *testing.T, c *Client, policy offline.Policy, topics ...string) (list []*channel.Client) {
	t.Helper()
	for _, topic := range topics {
		ch := c.Channel(topic, nil)
		ch.Resume(channel.ResumeConfig{})
		ch.Keep(policy)
		mustReply(t, ch.Join())
		list = append(list, ch)
		time.Sleep(time.Second)
	}
	synctest.Wait()
	return list
}

func storedTopics(c *Client, policy offline.Policy) (topics []string) {
	for _, m := range c.OfflineData() {
		if m.Policy == policy {
			topics = append(topics, m.Topic)
		}
	}
	return topics
}

func TestKeepUpdatingLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		l := &peerLog{p: p, epoch: "e1"}
		p.set(func() { p.log, p.join = l, l.join })
		var topics []string
		for i := range 65 {
			topics = append(topics, fmt.Sprintf("room:%02d", i))
		}
		for range 2 { // the second process has them in its store
			c := keptClient(p, store)
			channels := keepTopics(t, c, offline.KeepUpdating, topics...)
			if got := storedTopics(c, offline.KeepUpdating); !slices.Equal(got, topics[:64]) {
				t.Errorf("%d topics are updated: %q", len(got), got)
			}
			if got := storedTopics(c, offline.Keep); !slices.Equal(got, topics[64:]) {
				t.Errorf("kept: %q", got)
			}
			channels[0].Keep(offline.Keep) // makes room for another one
			channels[64].Keep(offline.KeepUpdating)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := storedTopics(c, offline.Keep); !slices.Equal(got, topics[:1]) {
				t.Errorf("kept: %q", got)
			}
			channels[64].Keep(offline.Keep)
			channels[0].Keep(offline.KeepUpdating)
			closeClient(t, c)
		}
	})
}

func TestMirrorBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		l := &peerLog{p: p, epoch: "e1"}
		p.set(func() { p.log, p.join = l, l.join })
		// Room for three positions.
		c := p.client(ClientConfig{Offline: &offline.Config{Store: store, Identity: "ann", MirrorBytes: 3 * 150}})
		c.Connect()
		want := func(topics ...string) {
			t.Helper()
			got := append(storedTopics(c, offline.Keep), storedTopics(c, offline.KeepUpdating)...)
			if !slices.Equal(got, topics) {
				t.Errorf("kept %q, want %q", got, topics)
			}
			if n := len(got); n > 3 {
				t.Errorf("%d mirrors", n)
			}
		}
		updating := keepTopics(t, c, offline.KeepUpdating, "u")[0]
		rooms := keepTopics(t, c, offline.Keep, "a", "b")
		want("a", "b", "u")
		mustReply(t, rooms[1].Leave()) // used later than a, but a is open
		synctest.Wait()
		keepTopics(t, c, offline.Keep, "c")
		want("a", "c", "u")
		keepTopics(t, c, offline.Keep, "d")
		want("c", "d", "u")
		wantStored(t, store, "c e1-0-0000", "d e1-0-0000", "u e1-0-0000")
		keepTopics(t, c, offline.KeepUpdating, "v", "w")
		want("u", "v", "w")
		keepTopics(t, c, offline.Keep, "e") // there is nothing to remove for it
		want("u", "v", "w")
		updating.Keep(offline.Forget)
		synctest.Wait()
		want("v", "w")
		closeClient(t, c)
	})
}
