package channel_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/push"
	"bennu.example/serializer"
)

type grantOf struct{}

// granted returns the values of a grant.
func granted(to string) context.Context {
	return context.WithValue(context.Background(), grantOf{}, to)
}

// TestReauthorize checks what follows the result of the callback, and what a handler without one
// does.
func TestReauthorize(t *testing.T) {
	t.Parallel()
	bye := `["1",null,"room:1","bye",{}]`
	no := []string{closedFor("no"), bye}
	returns := func(err error) func() error { return func() error { return err } }
	for name, test := range map[string]struct {
		result    func() error
		otherwise string
		frames    []string
		reason    error
	}{
		"keeps":                 {result: returns(nil), otherwise: "x"},
		"a reason":              {result: returns(push.Reason("no")), frames: no, reason: push.Reason("no")},
		"a rejection":           {result: returns(push.Reject("no")), frames: no, reason: push.Reason("no")},
		"another rejection":     {result: returns(push.Reject(1)), frames: []string{closed, bye}, reason: channel.ErrStop},
		"a stop":                {result: returns(channel.Stop("no")), frames: no, reason: push.Reason("no")},
		"ErrStop":               {result: returns(channel.ErrStop), frames: []string{closed, bye}, reason: channel.ErrStop},
		"an error":              {result: returns(errBoom), frames: []string{bye, crashed}, reason: errBoom},
		"a panic":               {result: func() error { panic("secret") }, frames: []string{bye, crashed}},
		"no callback":           {},
		"no callback, a logout": {otherwise: "no", frames: no, reason: push.Reason("no")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var ended []error
				options := []channel.Option[room]{
					channel.Terminate(func(_ *room, _ context.Context, c *channel.Channel, reason error) {
						ended = append(ended, reason)
						_ = c.Push("bye", nil)
					}),
				}
				if test.result != nil {
					options = append(options, channel.Reauthorize(func(_ *room, ctx context.Context, c *channel.Channel) error {
						if got := ctx.Value(grantOf{}); got != "new" || c.Context().Value(grantOf{}) != "new" {
							t.Errorf("the callback has the grant %v", got)
						}
						return test.result()
					}))
				}
				b := start(t, channel.Define((*room).join, options...))
				b.want(joinedOK)
				b.d.Regrant(&channelhost.Regrant{Values: granted("new"), Otherwise: test.otherwise})
				b.want(test.frames...)
				if test.frames == nil {
					b.d.Close(channel.ErrLeft)
				} else if len(ended) != 1 || test.reason != nil && !errors.Is(ended[0], test.reason) {
					t.Errorf("ended with %v", ended)
				}
				b.d.Wait()
			})
		})
	}
}

var errBoom = errors.New("boom")

// TestGrantValues checks that the values of a grant replace those of the one before, come before
// those of the socket, and do not change the cancellation of the channel.
func TestGrantValues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 3)
		b := start(t, channel.Define((*room).join, on("ask", func(c *channel.Channel, _ note) (push.Reply, error) {
			child, cancel := context.WithCancel(c.Context())
			context.AfterFunc(child, func() { causes <- context.Cause(child); cancel() })
			return push.OK(fmt.Sprint(c.Context().Value(grantOf{}))), nil
		})))
		b.want(joinedOK)
		ask := func(want string) {
			t.Helper()
			b.push("2", "ask", note{})
			b.want(reply("2", "ok", fmt.Sprintf("%q", want)))
		}
		ask("<nil>")
		b.d.Regrant(&channelhost.Regrant{Values: granted("ann")})
		ask("ann")
		b.d.Regrant(&channelhost.Regrant{Values: context.Background()})
		ask("<nil>")
		b.d.Close(errBoom)
		b.d.Wait()
		synctest.Wait()
		if len(causes) != 3 {
			t.Fatalf("%d of 3 contexts were cancelled", len(causes))
		}
		for range 3 {
			if cause := <-causes; !errors.Is(cause, errBoom) {
				t.Errorf("cause %v", cause)
			}
		}
		b.d.Regrant(&channelhost.Regrant{Values: granted("late")}) // without effect
	})
}

// TestRevokeOfChannel checks that a channel ends at once, whatever it is doing: its queue is
// dropped, and the context of its callback is cancelled.
func TestRevokeOfChannel(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before string // the state of the channel
		frames []string
	}{
		"idle":    {before: "joined", frames: []string{joinedOK, closedFor("gone")}},
		"busy":    {before: "busy", frames: []string{joinedOK, closedFor("gone")}},
		"joining": {before: "joining", frames: nil},
		"ended":   {before: "ended", frames: []string{joinedOK, reply("2", "ok", "{}"), closed}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var ended []error
				called := 0
				wait := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
				b := start(t, channel.Define(func(_ *room, ctx context.Context, _ *channel.Channel, _ note) (any, error) {
					if test.before == "joining" {
						return nil, wait(ctx)
					}
					return nil, nil
				},
					on("work", func(c *channel.Channel, _ note) (push.Reply, error) {
						called++
						return push.NoReply, wait(c.Context())
					}),
					channel.Terminate(func(_ *room, _ context.Context, _ *channel.Channel, reason error) {
						ended = append(ended, reason)
					})))
				synctest.Wait()
				switch test.before {
				case "busy":
					b.push("2", "work", note{})
					synctest.Wait()
					b.push("3", "work", note{})
				case "ended":
					b.d.Leave(serializer.Message{Ref: serializer.StringRef("2"), JoinRef: serializer.StringRef("1")}, 0)
					synctest.Wait()
				}
				b.d.Revoke("gone")
				synctest.Wait()
				got := b.take()
				if test.before == "joining" { // the socket drops the answer
					got = nil
				}
				if fmt.Sprint(got) != fmt.Sprint(test.frames) {
					t.Errorf("got %q, want %q", got, test.frames)
				}
				b.d.Wait()
				if test.before == "joining" {
					if len(ended) != 0 {
						t.Errorf("terminated with %v", ended)
					}
					return
				}
				want := error(push.Reason("gone"))
				if test.before == "ended" {
					want = channel.ErrLeft
				}
				if called > 1 || len(ended) != 1 || !errors.Is(ended[0], want) {
					t.Errorf("%d calls, terminated with %v", called, ended)
				}
			})
		})
	}
}

// TestRevokeOfWaitingJoin checks that a join is never called that waits for the channel before it,
// and that this channel ends as well although the topic is not its own any more.
func TestRevokeOfWaitingJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		joins, called := 0, 0
		h := channel.Define(func(*room, context.Context, *channel.Channel, note) (any, error) {
			joins++
			return nil, nil
		}, on("work", func(*channel.Channel, note) (push.Reply, error) {
			called++
			<-gate
			return push.NoReply, nil
		}))
		b := start(t, h)
		b.want(joinedOK)
		b.push("2", "work", note{})
		b.push("3", "work", note{})
		b.d.Leave(serializer.Message{Ref: serializer.StringRef("4"), JoinRef: serializer.StringRef("1")}, 0)
		synctest.Wait()
		before := b.d
		b.join(h, "5", before)
		synctest.Wait()
		b.d.Revoke("gone")
		b.want(closedFor("gone"))
		close(gate)
		before.Wait()
		b.d.Wait()
		b.want()
		if joins != 1 || called != 1 {
			t.Errorf("%d joins and %d events were called", joins, called)
		}
	})
}
