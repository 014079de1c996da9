package app

import (
	"context"
	"encoding/json"
	"errors"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/push"
)

// user is a client on a presence topic.
type user struct{ id string }

type userParams struct {
	UserID json.RawMessage `json:"user_id"` // Phoenix accepts any term and converts it to a string
	Meta   map[string]any  `json:"meta"`
}

// afterJoin is a message that a client's channel sends to itself in its join, because pushes are
// not possible there.
type afterJoin struct{ meta map[string]any }

func users(p *presence.Presence) *channel.Handler {
	join := func(g *user, _ context.Context, c *channel.Channel, params userParams) (any, error) {
		if params.UserID == nil {
			return nil, errNoClause
		}
		if json.Unmarshal(params.UserID, &g.id) != nil {
			g.id = string(params.UserID)
		}
		meta := map[string]any{"online_at": 1}
		for k, v := range params.Meta {
			meta[k] = v
		}
		return nil, c.Send(afterJoin{meta})
	}
	return channel.Define(join,
		channel.Info(func(g *user, _ context.Context, c *channel.Channel, a afterJoin) error {
			if err := p.Push(c); err != nil {
				return err
			}
			_, err := p.Track(c, g.id, a.meta)
			return err
		}),
		channel.On("update", func(g *user, _ context.Context, c *channel.Channel, change map[string]any) (push.Reply, error) {
			_, err := presence.Change(p, c, g.id, func(meta *map[string]any) {
				for k, v := range change {
					(*meta)[k] = v
				}
			})
			if errors.Is(err, presence.ErrNotTracked) {
				err = nil // Phoenix's application ignores the result
			}
			return push.OK(nil), err
		}),
		channel.On("untrack", func(g *user, _ context.Context, c *channel.Channel, _ payload) (push.Reply, error) {
			p.Untrack(c, g.id)
			return push.OK(nil), nil
		}),
		channel.On("list", func(_ *user, _ context.Context, c *channel.Channel, _ payload) (push.Reply, error) {
			return push.OK(p.List(c.Topic())), nil
		}),
	)
}
