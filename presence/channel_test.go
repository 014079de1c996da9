package presence_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// carrier is a connection without a network. It records the messages that are sent to the client.
type carrier struct {
	channelhost.Carrier // panics if a method is called that is not defined below

	ser    serializer.Serializer
	ps     *pubsub.PubSub
	mu     sync.Mutex
	frames []string
}

func (c *carrier) Serializer() serializer.Serializer                { return c.ser }
func (c *carrier) PubSub() *pubsub.PubSub                           { return c.ps }
func (c *carrier) Crashed(_ channelhost.Channel, _ string, _ error) {}
func (*carrier) Arrive(context.Context, string) error               { return nil }
func (c *carrier) Answered()                                        {}
func (c *carrier) Congested(channelhost.Channel) bool               { return false }
func (c *carrier) Batch(f func())                                   { f() }
func (c *carrier) Drained(channelhost.Channel) bool                 { return true }
func (c *carrier) Context() context.Context                         { return context.Background() }
func (c *carrier) ClientID() string                                 { return "" }
func (c *carrier) Ended()                                           {}
func (c *carrier) Log(_ channelhost.Channel, _ string, _ error)     {}
func (c *carrier) Reply(f *serializer.Frame) error                  { return c.keep(f) }
func (c *carrier) Send(f *serializer.Frame, _ transport.Delivery) error {
	return c.keep(f)
}

func (c *carrier) End(_ channelhost.Channel, fs ...*serializer.Frame) {
	for _, f := range fs {
		if f != nil {
			_ = c.keep(f)
		}
	}
}

func (c *carrier) keep(f *serializer.Frame) error {
	m, err := c.ser.ParseClient(f.Op, f.Data)
	if err != nil {
		return err
	}
	raw, err := m.Payload.JSON()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, m.JoinRef.Text()+" "+m.Event+" "+string(raw))
	return nil
}

// take returns the messages since the last call as "join_ref event payload". Refs of presences are
// replaced by names.
func (c *carrier) take(n *names) []string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	frames := c.frames
	c.frames = nil
	for i := range frames {
		frames[i] = n.name(frames[i])
	}
	return frames
}

// member is a channel that tracks its client.
type member struct{ p *presence.Presence }

type joinParams struct {
	User string `json:"user"`
}

// tracking is sent by a member to itself, because nothing can be pushed before the join is
// answered.
type tracking struct{ user string }

// members returns a handler that tracks its clients.
func members(p *presence.Presence) *channel.Handler {
	return channel.Define(
		func(m *member, _ context.Context, c *channel.Channel, params joinParams) (any, error) {
			m.p = p
			return nil, c.Send(tracking{params.User})
		},
		channel.Info(func(m *member, _ context.Context, c *channel.Channel, t tracking) error {
			if err := m.p.Push(c); err != nil {
				return err
			}
			_, err := m.p.Track(c, t.user, device{"device": "tab"})
			return err
		}),
		channel.On("update", func(m *member, _ context.Context, c *channel.Channel, change device) (push.Reply, error) {
			_, err := presence.Change(m.p, c, "u1", func(meta *device) {
				for k, v := range change {
					(*meta)[k] = v
				}
			})
			return push.OK(nil), err
		}),
		channel.On("untrack", func(m *member, _ context.Context, c *channel.Channel, _ device) (push.Reply, error) {
			m.p.Untrack(c, "u1")
			return push.OK(m.p.List(c.Topic())), nil
		}),
		channel.On("set", func(m *member, _ context.Context, c *channel.Channel, meta device) (push.Reply, error) {
			_, err := m.p.Update(c, "u1", meta)
			if errors.Is(err, presence.ErrNotTracked) {
				return push.NoReply, push.Reject("not tracked")
			}
			return push.OK(nil), err
		}),
	)
}

// join joins the topic. The channel before is replaced.
func join(c *carrier, h *channel.Handler, ref, user string, before channelhost.Channel) channelhost.Channel {
	m := serializer.Message{
		JoinRef: serializer.StringRef(ref), Ref: serializer.StringRef(ref), Topic: topic, Event: serializer.EventJoin,
		Payload: serializer.Value(map[string]string{"user": user}),
	}
	return channelhost.Start(c, channelhost.Join{
		Handler: h, Message: m, Before: before, MaxMailbox: 1 << 20, Workers: new(mailbox.Workers),
	})
}

// TestChannel checks the state and the diffs on the wire, and that a presence ends with its
// channel, however the channel ends (N282).
func TestChannel(t *testing.T) {
	t.Parallel()
	for _, ser := range serializer.Default() {
		t.Run(ser.Version(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, presence.Config{})
				h := members(n.Presence)
				a, b := &carrier{ser: ser, ps: n.ps}, &carrier{ser: serializer.V2(), ps: n.ps}
				ref := func(s string) string {
					if ser.Version() == "1.0.0" {
						return strings.TrimLeft(s, "0123456789")
					}
					return s
				}
				want := func(c *carrier, frames ...string) {
					t.Helper()
					got := c.take(&n.names)
					for i := range got {
						if c == a {
							got[i] = ref(got[i])
						}
					}
					for i := range frames {
						if c == a {
							frames[i] = ref(frames[i])
						}
					}
					if !slices.Equal(got, frames) {
						t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(frames, "\n  "))
					}
				}
				da := join(a, h, "1", "u1", nil)
				want(a, `1 phx_reply {}`, `1 presence_state {}`,
					` presence_diff {"joins":{"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}},"leaves":{}}`)
				db := join(b, h, "2", "u2", nil)
				joined := ` presence_diff {"joins":{"u2":{"metas":[{"phx_ref":"B","device":"tab"}]}},"leaves":{}}`
				want(a, joined)
				want(b, `2 phx_reply {}`, `2 presence_state {"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}}`, joined)

				send := func(ref serializer.Ref, event string, payload any) {
					mailbox.Started(da.Receive(serializer.Message{
						Ref: ref, Topic: topic, Event: event, Payload: serializer.Value(payload),
					}, time.Second))
				}
				send("3", "update", device{"status": "away"})
				const away = `{"phx_ref":"C","phx_ref_prev":"A","device":"tab","status":"away"}`
				changed := ` presence_diff {"joins":{"u1":{"metas":[` + away + `]}},` +
					`"leaves":{"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}}}`
				want(b, changed)
				want(a, `1 phx_reply {}`, changed)
				send("3", "set", device{})
				want(a, `1 phx_reply {}`, ` presence_diff {"joins":{"u1":{"metas":[{"phx_ref":"D","phx_ref_prev":"C"}]}},`+
					`"leaves":{"u1":{"metas":[`+away+`]}}}`)
				b.take(&n.names)
				send("4", "untrack", nil)
				want(a, `1 phx_reply {"u2":{"metas":[{"phx_ref":"B","device":"tab"}]}}`,
					` presence_diff {"joins":{},"leaves":{"u1":{"metas":[{"phx_ref":"D","phx_ref_prev":"C"}]}}}`)
				b.take(&n.names)

				for i, end := range []func(){
					func() {
						db.Leave(serializer.Message{Ref: "9", Topic: topic, Event: serializer.EventLeave}, time.Second)
					},
					func() {
						m := serializer.Message{Ref: "9", Topic: topic, Event: "unknown: a crash"}
						mailbox.Started(db.Receive(m, time.Second))
					},
					func() { db.Close(errors.New("connection lost")) },
					func() { db.Cancel(errors.New("killed")) },
				} {
					if i > 0 {
						db = join(b, h, "2", "u2", nil)
						a.take(&n.names)
					}
					n.refs = nil
					end()
					want(a, ` presence_diff {"joins":{},"leaves":{"u2":{"metas":[{"phx_ref":"A","device":"tab"}]}}}`)
					if n.Count(topic) != 0 {
						t.Errorf("end %d: still present", i)
					}
				}
				b.take(&n.names)

				db = join(b, h, "5", "u2", nil)
				a.take(&n.names)
				db = join(b, h, "6", "u2", db)
				got := a.take(&n.names)
				if len(got) != 2 || !strings.Contains(got[0], `"joins":{}`) || !strings.Contains(got[1], `"leaves":{}`) {
					t.Errorf("joined again: %q", got)
				}
				if n.Count(topic) != 1 {
					t.Error("not present after joining again")
				}
				db.Close(errors.New("done"))
				da.Close(errors.New("done"))
				da.Wait()
				db.Wait()
			})
		})
	}
}
