package app

import (
	"context"
	"encoding/json"
	"errors"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/push"
)

// guest is one client on a presence topic.
type guest struct{ user string }

type guestParams struct {
	UserID json.RawMessage `json:"user_id"` // any term in Phoenix, which makes a string of it
	Meta   map[string]any  `json:"meta"`
}

// arrived is what a guest sends itself in its join, as pushing is not possible there.
type arrived struct{ meta map[string]any }

func guests(p *presence.Presence) *channel.Handler {
	join := func(g *guest, _ context.Context, c *channel.Channel, params guestParams) (any, error) {
		if params.UserID == nil {
			return nil, errNoClause
		}
		if json.Unmarshal(params.UserID, &g.user) != nil {
			g.user = string(params.UserID)
		}
		meta := map[string]any{"online_at": 1}
		for k, v := range params.Meta {
			meta[k] = v
		}
		return nil, c.Send(arrived{meta})
	}
	return channel.Define(join,
		channel.Info(func(g *guest, _ context.Context, c *channel.Channel, a arrived) error {
			if err := p.Push(c); err != nil {
				return err
			}
			_, err := p.Track(c, g.user, a.meta)
			return err
		}),
		channel.On("update", func(g *guest, _ context.Context, c *channel.Channel, change map[string]any) (push.Reply, error) {
			_, err := presence.Change(p, c, g.user, func(meta *map[string]any) {
				for k, v := range change {
					(*meta)[k] = v
				}
			})
			if errors.Is(err, presence.ErrNotTracked) {
				err = nil // Phoenix's application does not look at the result
			}
			return push.OK(nil), err
		}),
		channel.On("untrack", func(g *guest, _ context.Context, c *channel.Channel, _ payload) (push.Reply, error) {
			p.Untrack(c, g.user)
			return push.OK(nil), nil
		}),
		channel.On("list", func(_ *guest, _ context.Context, c *channel.Channel, _ payload) (push.Reply, error) {
			return push.OK(p.List(c.Topic())), nil
		}),
	)
}
