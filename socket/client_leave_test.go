package socket

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// The peer of these tests behaves like Phoenix: a channel handles its messages one after the other,
// but a phx_join for its topic kills it immediately, even if messages are left.

// events returns join_ref and event of all messages that the peer received, except heartbeats.
func (p *peer) events() (list []string) {
	for _, f := range p.got("heartbeat") {
		parts := strings.Fields(f)
		list = append(list, strings.Trim(parts[0], `"`)+" "+parts[3])
	}
	return list
}

func TestClientLeaveThenJoin(t *testing.T) {
	t.Parallel()
	for _, version := range serializer.Default() {
		t.Run(serializer.Vsn(version), func(t *testing.T) {
			t.Parallel()
			transports(t, ClientConfig{Serializer: version}, func(t *testing.T, p *peer, c *Client) {
				p.set(func() { p.ser, p.busy = version, 20*time.Millisecond })
				connected(t, c)
				for round := range 10 {
					ch := joined(t, c, "room:1")
					var pushes []*push.Push
					for n := range round + 1 {
						pushes = append(pushes, ch.Push("echo", map[string]int{"n": n}))
					}
					leave := ch.Leave()
					next := c.Channel("room:1", nil)
					join := next.Join()
					waiting := next.Push("echo", map[string]int{"next": round})
					for n, one := range pushes {
						if _, err := one.Wait(t.Context()); err != nil {
							t.Fatalf("round %d: push %d, made before Leave: %v", round, n, err)
						}
					}
					mustReply(t, leave)
					mustReply(t, join)
					mustReply(t, waiting)
					mustReply(t, next.Leave())
				}
			})
		})
	}
}

// TestClientJoinWaitsForLeave checks a join that waits for a leave, for each way in which a leave
// ends.
func TestClientJoinWaitsForLeave(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		leave error // how the leave ends
		after time.Duration
		fault func(p *peer)
	}{
		{"answered", nil, 3 * time.Second, func(p *peer) { p.busy = 3 * time.Second }},
		{"no answer", push.ErrTimeout, 10 * time.Second, func(p *peer) { p.ignore = serializer.EventLeave }},
		{"closed by the server", nil, 2 * time.Second, func(p *peer) {
			p.ignore = serializer.EventLeave
			k := p.live[0]
			time.AfterFunc(2*time.Second, func() { k.lifecycle("room:1", serializer.EventClose, `"1"`, nil) })
		}},
		{"crashed", nil, 2 * time.Second, func(p *peer) {
			p.ignore = serializer.EventLeave
			k := p.live[0]
			time.AfterFunc(2*time.Second, func() { k.lifecycle("room:1", serializer.EventError, `"1"`, nil) })
		}},
		{"connection lost", nil, 2010 * time.Millisecond, func(p *peer) {
			p.ignore = serializer.EventLeave
			k := p.live[0]
			time.AfterFunc(2*time.Second, func() { k.end(errReset) })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
				connected(t, c)
				ch := joined(t, c, "room:1")
				p.set(func() { test.fault(p) })
				start := time.Now()
				leave := ch.Leave()
				next := c.Channel("room:1", nil)
				var received []string
				next.OnMessage(func(m serializer.Message) { received = append(received, m.Event) })
				join := next.Join()
				synctest.Wait()
				p.broadcast("room:1", "too early", nil)
				time.Sleep(time.Second)
				if got := p.events(); !slices.Equal(got, []string{"1 phx_join", "1 phx_leave"}) {
					t.Fatalf("sent before the leave has ended: %q", got)
				}
				if _, err := leave.Wait(t.Context()); !errors.Is(err, test.leave) {
					t.Fatalf("leave: %v, want %v", err, test.leave)
				}
				mustReply(t, join)
				if d := time.Since(start); d != test.after {
					t.Errorf("joined after %v, want %v", d, test.after)
				}
				p.set(func() { p.busy, p.ignore = 0, "" })
				mustReply(t, next.Push("echo", nil))
				p.broadcast("room:1", "in time", nil)
				synctest.Wait()
				if !slices.Equal(received, []string{"in time"}) {
					t.Errorf("events of the new channel: %q", received)
				}
			})
		})
	}
}

// TestClientHeldJoinTimeout checks that the timeout of a join that waits for a leave starts again
// when the leave times out.
func TestClientHeldJoinTimeout(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		p.set(func() { p.ignore = serializer.EventLeave })
		p.last().change(func() { p.last().slow = 4 * time.Second })
		ch.Leave()
		mustReply(t, c.Channel("room:1", nil).Join())
	})
}

// TestClientLeaveJoinLeaveJoin withdraws a join that waits for a leave, and joins again.
func TestClientLeaveJoinLeaveJoin(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.set(func() { p.busy = time.Second })
		connected(t, c)
		ch := joined(t, c, "room:1")
		first := ch.Push("echo", nil)
		leave := ch.Leave()
		second := c.Channel("room:1", nil)
		join := second.Join()
		mustReply(t, second.Leave()) // immediately, because it was not sent to the server
		mustFail(t, join, channel.ErrClosed)
		third := c.Channel("room:1", nil)
		join = third.Join()
		mustFail(t, c.Channel("room:1", nil).Join(), channel.ErrDuplicate)
		mustReply(t, first)
		mustReply(t, leave)
		mustReply(t, join)
		if got, want := p.events(), []string{"1 phx_join", "1 echo", "1 phx_leave", "4 phx_join"}; !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}
