package socket_test

import (
	"context"
	"fmt"
	"testing"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// TestJoinRefs checks the join_ref of the server's messages. Replies to joins and the ends of
// channels have the client's join_ref. All other replies and pushes have the ref of the join if the
// client sent no join_ref.
func TestJoinRefs(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxTopic: 20, Channels: channel.Routes{"room:*": channel.Define(joinOK,
		onEvent("echo", func(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}),
		onEvent("reject", func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, push.Reject("no")
		}),
		onEvent("push", func(_ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			return push.NoReply, c.Push("pushed", nil)
		}),
		onEvent("stop", func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.OK(nil), channel.ErrStop
		}),
		onEvent("crash", func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			panic("asked to crash")
		}),
		channel.On("strict", func(_ *nobody, _ context.Context, _ *channel.Channel, _ int) (push.Reply, error) {
			return push.NoReply, nil
		}),
		channel.OnAny(
			func(_ *nobody, _ context.Context, _ *channel.Channel, _ string, p serializer.Payload) (push.Reply, error) {
				return push.OK(p), nil
			}),
	)}})
	const topic = `"room:b"`
	message := func(joinRef, ref, event, payload string) string {
		return fmt.Sprintf(`[%s,%s,%s,"%s",%s]`, joinRef, ref, topic, event, payload)
	}
	reply := func(joinRef, ref, status, response string) string {
		return message(joinRef, ref, "phx_reply", fmt.Sprintf(`{"status":"%s","response":%s}`, status, response))
	}
	for _, test := range []struct{ joinRef, ref, later string }{
		{`null`, `"6"`, `"6"`},
		{`null`, `6`, `6`},
		{`null`, `null`, `null`},
		{`"3"`, `"6"`, `"3"`},
		{`""`, `"6"`, `""`},
		{`3`, `null`, `3`},
	} {
		t.Run(test.joinRef+" "+test.ref, func(t *testing.T) {
			t.Parallel()
			p := s.dial("vsn=2.0.0")
			p.t = t
			join := func() {
				t.Helper()
				p.send(message(test.joinRef, test.ref, "phx_join", `{}`))
				p.want(reply(test.joinRef, test.ref, "ok", `{}`))
			}
			closed := message(test.joinRef, test.joinRef, "phx_close", `{}`)
			for _, joinRef := range []string{`null`, test.joinRef} {
				join()
				for event, want := range map[string]string{
					"echo":                   reply(test.later, `"7"`, "ok", `{}`),
					"reject":                 reply(test.later, `"7"`, "error", `{"reason":"no"}`),
					"strict":                 reply(test.later, `"7"`, "error", `{"reason":"invalid payload"}`),
					"phx_close":              reply(test.later, `"7"`, "error", `{"reason":"reserved event"}`),
					"more than twenty bytes": reply(test.later, `"7"`, "error", `{"reason":"event too long"}`),
					"push":                   message(test.later, `null`, "pushed", `{}`),
				} {
					p.send(message(joinRef, `"7"`, event, `{}`))
					p.want(want)
				}
				p.send(message(joinRef, `"8"`, "phx_leave", `null`))
				p.want(reply(test.later, `"8"`, "ok", `{}`), closed)
				p.send(message(joinRef, `"9"`, "phx_leave", `null`)) // no longer joined
				p.want(reply(joinRef, `"9"`, "ok", `{}`))
				p.send(message(joinRef, `"10"`, "echo", `{}`))
				p.want(reply(`null`, `"10"`, "error", `{"reason":"unmatched topic"}`))
				join()
				p.send(message(joinRef, `"11"`, "stop", `{}`))
				p.want(reply(test.later, `"11"`, "ok", `{}`), closed)
				join()
				p.send(message(joinRef, `"12"`, "crash", `{}`))
				p.want(message(test.joinRef, test.joinRef, "phx_error", `{"reason":"channel_crash"}`))
				join()
				join() // again: the end of the first channel comes after it
				p.want(closed)
				p.send(message(joinRef, `"13"`, "phx_leave", `{}`))
				p.want(reply(test.later, `"13"`, "ok", `{}`), closed)
			}
		})
	}
}
