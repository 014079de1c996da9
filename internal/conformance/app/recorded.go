package app

import (
	"context"
	"sync"

	"bennu.example/channel"
	"bennu.example/push"
)

// numbers are the largest numbers that were said on the recorded topics.
type numbers struct {
	mu      sync.Mutex
	largest map[string]float64
}

func (n *numbers) note(topic string, number float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.largest[topic] = max(n.largest[topic], number)
}

func (n *numbers) of(topic string) float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.largest[topic]
}

// recorded is the handler of topics whose events are all recorded. Its join reply is a snapshot:
// the largest number of the topic, which is noted before it is broadcast.
func recorded() *channel.Handler {
	said := &numbers{largest: make(map[string]float64)}
	return channel.Define(
		func(_ *member, _ context.Context, c *channel.Channel, _ payload) (any, error) {
			return map[string]float64{"n": said.of(c.Topic())}, nil
		},
		channel.On("say", func(_ *member, _ context.Context, c *channel.Channel, p payload) (push.Reply, error) {
			var in struct{ N float64 }
			if !p.IsBinary() && p.Decode(&in) == nil {
				said.note(c.Topic(), in.N)
			}
			if err := c.Broadcast("msg", p); err != nil {
				return push.NoReply, err
			}
			return push.OK(nil), nil
		}),
		channel.Pages(func(*member, context.Context, *channel.Channel) error { return nil }),
	)
}
