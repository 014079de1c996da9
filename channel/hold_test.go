package channel_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/push"
)

func diff(n int) string { return fmt.Sprintf(`[null,null,"room:1","presence_diff",{"n":%d}]`, n) }

// TestReplyBeforeDiff checks callbacks that cause presence_diffs in several ways. Their client
// receives the reply first. Another client receives the diffs immediately.
func TestReplyBeforeDiff(t *testing.T) {
	t.Parallel()
	type numbered struct {
		N int `json:"n"`
	}
	type step struct {
		name string
		run  func(cause func(n int), c *channel.Channel, block chan struct{}) (push.Reply, error)
		ref  string

		before []string // what the client receives while the callback is blocked
		after  []string // what it receives when the callback has returned
	}
	ok := reply("7", "ok", "{}")
	for _, s := range []step{
		{
			name: "a reply", ref: "7",
			run: func(cause func(int), _ *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				cause(2)
				<-block
				cause(3)
				return push.OK(nil), nil
			},
			after: []string{ok, diff(1), diff(2), diff(3)},
		}, {
			name: "a rejection", ref: "7",
			run: func(cause func(int), _ *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				<-block
				return push.NoReply, push.Reject("no")
			},
			after: []string{reply("7", "error", `{"reason":"no"}`), diff(1)},
		}, {
			name: "no reply", ref: "7",
			run: func(cause func(int), _ *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				<-block
				return push.NoReply, nil
			},
			after: []string{diff(1)},
		}, {
			name: "a reply before the callback returns", ref: "7",
			run: func(cause func(int), c *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				err := c.Reply(c.Ref(), push.OK(nil))
				cause(2)
				<-block
				return push.NoReply, err
			},
			before: []string{ok, diff(1), diff(2)},
		}, {
			name: "a reply to another message", ref: "7",
			run: func(cause func(int), c *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				err := c.Reply(channel.Ref{}, push.OK(nil))
				<-block
				if !errors.Is(err, channel.ErrNoRef) {
					return push.NoReply, fmt.Errorf("reply to no message: %w", err)
				}
				return push.OK(nil), nil
			},
			after: []string{ok, diff(1)},
		}, {
			name: "a message that expects no reply", ref: "",
			run: func(cause func(int), _ *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				<-block
				return push.NoReply, nil
			},
			before: []string{diff(1)},
		}, {
			name: "other messages do not wait", ref: "7",
			run: func(cause func(int), c *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				err := errors.Join(c.Push("pushed", nil), c.Broadcast("sent", nil))
				<-block
				return push.OK(nil), err
			},
			before: []string{`["1",null,"room:1","pushed",{}]`, `[null,null,"room:1","sent",{}]`},
			after:  []string{ok, diff(1)},
		}, {
			name: "a crash drops them", ref: "7",
			run: func(cause func(int), _ *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				<-block
				panic("on purpose")
			},
			after: []string{crashed},
		}, {
			name: "a stop drops them", ref: "7",
			run: func(cause func(int), _ *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				<-block
				return push.OK(nil), channel.ErrStop
			},
			after: []string{ok, closed},
		}, {
			name: "a callback that takes long", ref: "7",
			run: func(cause func(int), _ *channel.Channel, block chan struct{}) (push.Reply, error) {
				cause(1)
				time.Sleep(500 * time.Millisecond)
				cause(2)
				time.Sleep(501 * time.Millisecond)
				cause(3)
				<-block
				return push.OK(nil), nil
			},
			before: []string{diff(1), diff(2), diff(3)},
			after:  []string{ok},
		},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				block := make(chan struct{})
				var b *bench
				cause := func(n int) { b.ps.LocalBroadcast("room:1", presence.EventDiff, numbered{n}) }
				h := channel.Define((*room).join,
					on("go", func(c *channel.Channel, _ note) (push.Reply, error) { return s.run(cause, c, block) }),
					on("more", func(*channel.Channel, note) (push.Reply, error) { cause(9); return push.OK(nil), nil }))
				b = start(t, h)
				other := &bench{carrier: newCarrier(b.ps), t: t}
				other.join(h, "1", nil)
				b.want(joinedOK)
				other.want(joinedOK)
				b.push(s.ref, "go", nil)
				time.Sleep(2 * time.Millisecond)
				if strings.Contains(s.name, "long") {
					time.Sleep(2 * time.Second)
				}
				if got := other.take(); len(got) == 0 || got[0] != diff(1) {
					t.Errorf("another client received %q while the callback was blocked", got)
				}
				b.want(s.before...)
				close(block)
				b.want(s.after...)
				if last := append(s.before, s.after...); last[len(last)-1] != closed && last[len(last)-1] != crashed {
					b.push("8", "more", nil) // the next callback holds diffs again
					b.want(reply("8", "ok", "{}"), diff(9))
					cause(10)
					b.want(diff(10))
				}
				b.d.Close(errors.New("done"))
				other.d.Close(errors.New("done"))
				b.d.Wait()
				other.d.Wait()
			})
		})
	}
}

// TestHeldDiffsAreBounded checks a callback during which more diffs are delivered than may wait for
// its reply.
func TestHeldDiffsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		const size, total = 5 << 10, 200 << 10
		block := make(chan struct{})
		b = start(t, channel.Define((*room).join,
			on("go", func(*channel.Channel, note) (push.Reply, error) {
				for i := range total / size {
					b.ps.LocalBroadcast("room:1", presence.EventDiff, map[string]any{"n": i, "x": strings.Repeat("x", size)})
				}
				<-block
				return push.OK(nil), nil
			})))
		b.want(joinedOK)
		b.push("7", "go", nil)
		sent := b.take()
		if len(sent) != total/size {
			t.Errorf("%d of %d diffs were sent: a full queue must not keep any", len(sent), total/size)
		}
		for i, f := range sent {
			if !strings.Contains(f, fmt.Sprintf(`"n":%d,`, i)) {
				t.Fatalf("diff %d is %.80s", i, f)
			}
		}
		close(block)
		b.want(reply("7", "ok", "{}"))
		b.d.Close(errors.New("done"))
		b.d.Wait()
	})
}
