package channel_test

import (
	"context"
	"fmt"

	"bennu.example/channel"
)

type score struct {
	Team   string `json:"team"`
	Points int    `json:"points"`
}

// The server sends this event.
const scored channel.Event[score] = "scored"

// A callback of On may return a value of its own type, which is the payload of an ok reply. Package
// tsgen knows it, and what Sends declares, and writes types for pages.
func ExampleSends() {
	type match struct{ points int }
	type welcome struct {
		Points int `json:"points"`
	}
	join := func(m *match, _ context.Context, _ *channel.Channel, _ struct{}) (welcome, error) {
		return welcome{m.points}, nil
	}
	score := func(m *match, _ context.Context, c *channel.Channel, s score) (welcome, error) {
		m.points += s.Points
		return welcome{m.points}, scored.Broadcast(c, s)
	}
	h := channel.Define(join, channel.On("score", score), channel.Sends[match](scored))

	room, events, end := dial(h)
	defer end()
	reply, err := channel.Call[welcome](context.Background(), room, "score", map[string]any{"team": "red", "points": 3})
	fmt.Println(reply.Points, err, events("scored"))
	// Output: 3 <nil> {"team":"red","points":3}
}
