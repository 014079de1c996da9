package channel_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"bennu.example/channel"
	"bennu.example/push"
)

const noted channel.Event[note] = "noted"

// TestTypedReplies checks callbacks whose results have types of their own.
func TestTypedReplies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		join := func(*room, context.Context, *channel.Channel, note) (*note, error) { return nil, nil }
		b := start(t, channel.Define(join,
			channel.On("value", func(_ *room, _ context.Context, _ *channel.Channel, n note) (note, error) { return n, nil }),
			channel.On("nil", func(*room, context.Context, *channel.Channel, note) (*note, error) { return nil, nil }),
			channel.On("map", func(*room, context.Context, *channel.Channel, note) (map[string]int, error) { return nil, nil }),
			channel.On("any", func(*room, context.Context, *channel.Channel, note) (any, error) { return nil, nil }),
			channel.On("none", func(*room, context.Context, *channel.Channel, note) (push.Reply, error) {
				return push.NoReply, nil
			}),
			channel.On("refuse", func(*room, context.Context, *channel.Channel, note) (note, error) {
				return note{"not sent"}, push.Reject("no")
			}),
			channel.On("broadcast", func(_ *room, _ context.Context, c *channel.Channel, n note) (note, error) {
				return n, errors.Join(noted.Broadcast(c, n), noted.BroadcastFrom(c, note{"skipped"}), noted.Push(c, note{"own"}))
			}),
			channel.On("stop", func(*room, context.Context, *channel.Channel, note) (note, error) {
				return note{"last"}, channel.ErrStop
			}),
			channel.Sends[room](noted)))
		b.want(reply("1", "ok", "{}"))
		for i, event := range []string{"value", "nil", "map", "any", "none", "refuse", "broadcast", "stop"} {
			b.push(string(rune('2'+i)), event, note{"x"})
		}
		b.want(reply("2", "ok", `{"text":"x"}`), reply("3", "ok", "{}"), reply("4", "ok", "{}"), reply("5", "ok", "{}"),
			reply("7", "error", `{"reason":"no"}`),
			`[null,null,"room:1","noted",{"text":"x"}]`, `["1",null,"room:1","noted",{"text":"own"}]`,
			reply("8", "ok", `{"text":"x"}`), reply("9", "ok", `{"text":"last"}`), closed)
	})
}

func TestSendsPanicsOnMistakes(t *testing.T) {
	t.Parallel()
	defer func() {
		if v := recover(); v != `channel: two Sends for event "noted"` {
			t.Error(v)
		}
	}()
	channel.Define((*room).join, channel.Sends[room](noted), channel.Sends[room](noted))
}
