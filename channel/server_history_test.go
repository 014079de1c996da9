package channel_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

func TestClientThatComesBackReceivesWhatItMissed(t *testing.T) {
	for _, s := range serializer.Default() {
		t.Run(s.Version(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ps := recordedTopic(history.Keep{})
				h := plainRoom()
				c := newClient(t, ps)
				c.ser = s
				reply := c.joined(h, `{}`)
				if reply["recovered"] != false || reply["why"] != "new" || reply["missed"] != float64(0) || reply["pos"] == nil {
					t.Fatalf("the first join: %v", reply)
				}
				at := reply["pos"].(string)
				broadcastN(t, ps, "msg", 1, 3)
				list := c.messages()
				if !slices.Equal(numbers(t, list, "msg"), upTo(1, 3)) {
					t.Fatalf("live: %+v", list)
				}
				second := list[1].pos
				c.leave()
				broadcastN(t, ps, "msg", 4, 5)

				for since, first := range map[string]int{at: 1, second: 3, list[2].pos: 4} {
					c := newClient(t, ps)
					c.ser = s
					c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, since))
					got := c.messages()
					missed := upTo(first, 5)
					want := map[string]any{"pos": since, "recovered": true, "missed": float64(len(missed))}
					if fmt.Sprint(got[0].history) != fmt.Sprint(want) {
						t.Errorf("since %s: %v, want %v", since, got[0].history, want)
					}
					if ns := numbers(t, got[1:], "msg"); !slices.Equal(ns, missed) {
						t.Errorf("since %s: got %v, want %v", since, ns, missed)
					}
					c.leave()
				}
			})
		})
	}
}

// TestJoinErrorsOfHistory checks each error of a join on the wire, and that nothing else is lost:
// the topic can be joined at once, and its channels go on.
func TestJoinErrorsOfHistory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		called := 0
		h := channel.Define(func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			called++
			return nil, nil
		})
		other := newClient(t, ps)
		other.joined(h, `{}`)
		called = 0
		c := newClient(t, ps)
		for _, tt := range []struct{ ask, reason string }{
			{`null`, "invalid history"}, {`true`, "invalid history"}, {`[]`, "invalid history"}, {`"x"`, "invalid history"},
			{`{"last":-1}`, "invalid history"}, {`{"last":1000001}`, "invalid history"}, {`{"last":1.5}`, "invalid history"},
			{`{"last":"1"}`, "invalid history"}, {`{"last":null}`, "invalid history"}, {`{"last":1e99}`, "invalid history"},
			{`{"own":1}`, "invalid history"}, {`{"own":null}`, "invalid history"}, {`{"own":"true"}`, "invalid history"},
			{`{"since":1}`, "invalid position"}, {`{"since":{}}`, "invalid position"}, {`{"since":""}`, "invalid position"},
			{`{"since":"a-1"}`, "invalid position"}, {`{"since":"a-01-0000"}`, "invalid position"},
			{`{"since":"a-1-00000"}`, "invalid position"}, {`{"since":"A-1-0000"}`, "invalid position"},
			{`{"since":"a-9007199254740992-0000"}`, "invalid position"},
			{`{"since":"` + strings.Repeat("a", 1000) + `-1-0000"}`, "invalid position"},
		} {
			c.join(h, `{"$history":`+tt.ask+`}`)
			want := fmt.Sprintf(`["%[1]d","%[1]d","room:1","phx_reply",{"status":"error","response":{"reason":%[2]q}}]`,
				c.ref, tt.reason)
			if got := c.take(); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: got %q\nwant %s", tt.ask, got, want)
			}
			c.leave()
		}
		if called != 0 {
			t.Errorf("the join callback was called %d times", called)
		}
		if log := c.log(); log != "" {
			t.Errorf("logged %s", log)
		}
		for _, ask := range []string{
			`{"last":0,"own":true}`, `{"last":1000000,"own":false}`, `{"since":null}`, `{"x":[1]}`, `{"since":"a-1-0\u0030zz"}`,
		} {
			c.joined(h, ask)
			c.leave()
		}
		broadcastN(t, ps, "msg", 1, 1)
		if got := other.messages(); !slices.Equal(numbers(t, got, "msg"), upTo(1, 1)) {
			t.Errorf("the other client got %+v", got)
		}
		other.leave()
	})
}

// TestParamsHaveNoHistory checks that the join callback does not see the member.
func TestParamsHaveNoHistory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, ps := range []*pubsub.PubSub{recordedTopic(history.Keep{}), pubsub.New(nil)} {
			var params string
			h := channel.Define(func(_ *nobody, _ context.Context, _ *channel.Channel, p serializer.Payload) (any, error) {
				raw, err := p.JSON()
				params = string(raw)
				return nil, err
			})
			c := newClient(t, ps)
			c.join(h, `{"user":"ann","$history":{"since":null},"history":1}`)
			if c.take(); params != `{"user":"ann","history":1}` {
				t.Errorf("the params are %s", params)
			}
			c.leave()
		}
	})
}

// TestReasonsWithoutRecovery checks each reason of a reply that is not recovered.
func TestReasonsWithoutRecovery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reach := time.Time{}
		h := plainRoom(channel.Reach(func(*nobody, context.Context, *channel.Channel) time.Time { return reach }))
		ps := recordedTopic(history.Keep{Count: 10, MaxReplay: 5})
		broadcastN(t, ps, "msg", 1, 3)
		c := newClient(t, ps)
		c.joined(h, `{}`)
		broadcastN(t, ps, "msg", 4, 30)
		list := c.messages()
		c.leave()
		pos := func(n int) history.Position {
			p, err := history.ParsePosition(list[n-4].pos)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		top := pos(30)
		other := "0000"
		if top.Tag() != "1111" {
			other = "1111"
		}
		tests := []struct {
			why, since string
			last       int
			missed     []int
		}{
			{"epoch", "zz-5-1111", 0, nil},
			{"trimmed", pos(4).String(), 0, nil},
			{"trimmed", pos(19).String(), 2, upTo(29, 30)},
			{"ahead", fmt.Sprintf("%s-99-1111", top.Epoch()), 0, nil},
			{"tag", fmt.Sprintf("%s-30-%s", top.Epoch(), other), 0, nil},
			{"many", pos(24).String(), 0, nil},
			{"many", pos(24).String(), 3, upTo(28, 30)},
			{"", pos(25).String(), 3, upTo(26, 30)},
			{"new", "", 1000000, upTo(26, 30)},
		}
		for _, tt := range tests {
			c := newClient(t, ps)
			since := "null"
			if tt.since != "" {
				since = `"` + tt.since + `"`
			}
			c.join(h, fmt.Sprintf(`{"$history":{"since":%s,"last":%d}}`, since, tt.last))
			got := c.messages()
			reply := got[0].history
			if fmt.Sprint(reply["why"]) != map[bool]string{true: "<nil>", false: tt.why}[tt.why == ""] ||
				reply["recovered"] != (tt.why == "") || reply["missed"] != float64(len(tt.missed)) {
				t.Errorf("%s %s: %v", tt.why, tt.since, reply)
			}
			if len(tt.missed) == 0 && reply["pos"] != top.String() {
				t.Errorf("%s: the position is %v, want %s", tt.why, reply["pos"], top)
			}
			if ns := numbers(t, got[1:], "msg"); !slices.Equal(ns, tt.missed) {
				t.Errorf("%s: got %v, want %v", tt.why, ns, tt.missed)
			}
			c.leave()
		}

		time.Sleep(time.Minute)
		reach = time.Now()
		broadcastN(t, ps, "msg", 31, 32)
		c = newClient(t, ps)
		c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, pos(28)))
		got := c.messages()
		want := fmt.Sprintf("map[missed:2 pos:%v recovered:false why:reach]", top)
		if r := fmt.Sprint(got[0].history); r != want {
			t.Errorf("reach: %s, want %s", r, want)
		}
		if ns := numbers(t, got[1:], "msg"); !slices.Equal(ns, upTo(31, 32)) {
			t.Errorf("reach: %v", ns)
		}
		c.leave()

		others := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"x": {}})
		for _, ps := range []*pubsub.PubSub{pubsub.New(nil), others} {
			c := newClient(t, ps)
			if r := c.joined(plainRoom(), `{"since":"a-1-1111"}`); fmt.Sprint(r) != "map[missed:0 recovered:false why:off]" {
				t.Errorf("off: %v", r)
			}
			c.leave()
		}
	})
}

// TestFramesOfClientsThatDidNotAsk compares the frames of a recorded topic with those of one that
// is not, byte for byte.
func TestFramesOfClientsThatDidNotAsk(t *testing.T) {
	play := func(t *testing.T, s serializer.Serializer, ps *pubsub.PubSub) (frames []string) {
		h := plainRoom(
			onPush("shout", func(c *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.OK(p), c.Broadcast("shout", p)
			}),
			onPush("hush", func(c *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.NoReply, c.BroadcastFrom("hush", p)
			}),
			intercept("secret", func(c *channel.Channel, p serializer.Payload) error { return c.Push("revealed", p) }),
		)
		c := newClient(t, ps)
		c.ser = s
		c.join(h, `{"user":"ann"}`)
		frames = append(frames, c.take()...)
		broadcastN(t, ps, "msg", 1, 3)
		c.push("shout", `{"a":1}`)
		frames = append(frames, c.take()...)
		c.push("hush", `{"a":2}`)
		broadcastN(t, ps, "secret", 4, 5)
		frames = append(frames, c.take()...)
		if err := ps.Broadcast(t.Context(), "room:1", "presence_diff", map[string]any{"joins": 1}); err != nil {
			t.Error(err)
		}
		err := ps.Broadcast(t.Context(), "room:1", "bytes", serializer.Binary([]byte{1, 2}))
		if err != nil && s.Version() != "1.0.0" {
			t.Error(err)
		}
		frames = append(frames, c.take()...)
		c.d.Leave(serializer.Message{Ref: `"99"`, Topic: "room:1", Event: "phx_leave"}, time.Second)
		frames = append(frames, c.take()...)
		c.leave()
		return frames
	}
	for _, s := range serializer.Default() {
		bubble(t, func(t *testing.T) {
			want := play(t, s, pubsub.New(nil))
			for name, keep := range map[string]history.Keep{"with gap": {NoGap: true}, "without gap": {}} {
				if got := play(t, s, recordedTopic(keep)); !slices.Equal(got, want) {
					t.Errorf("version %s, %s:\n got %q\nwant %q", s.Version(), name, got, want)
				}
			}
		})
	}
}

// TestJoinGapIsClosed broadcasts while the join callback runs.
func TestJoinGapIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, tt := range []struct {
			params string
			keep   history.Keep
			want   []int
		}{
			{`{}`, history.Keep{}, upTo(2, 5)}, {`{}`, history.Keep{NoGap: true}, upTo(4, 5)},
			{`{"$history":{}}`, history.Keep{}, upTo(2, 5)}, {`{"$history":{}}`, history.Keep{NoGap: true}, upTo(2, 5)},
		} {
			ps := recordedTopic(tt.keep)
			broadcastN(t, ps, "msg", 1, 1)
			h := channel.Define(func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
				broadcastN(t, ps, "msg", 2, 3)
				return nil, nil
			})
			c := newClient(t, ps)
			c.join(h, tt.params)
			synctest.Wait()
			broadcastN(t, ps, "msg", 4, 5)
			got := c.messages()
			if got[0].event != "phx_reply" || !slices.Equal(numbers(t, got, "msg"), tt.want) {
				t.Errorf("%+v: %v", tt, texts(got))
			}
			asked := strings.Contains(tt.params, "$")
			for _, m := range got[1:] {
				if (m.pos != "") != asked {
					t.Errorf("%+v: %+v", tt, m)
				}
			}
			if asked && got[0].history["missed"] != float64(2) {
				t.Errorf("%+v: %v", tt, got[0].history)
			}
			c.leave()
		}
	})
}

func TestResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{Count: 5})
		var resume channel.Resume
		var ch *channel.Channel
		h := channel.Define(func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			resume, ch = c.Resume(), c
			return nil, nil
		})
		c := newClient(t, ps)
		c.join(h, `{}`)
		if c.take(); resume != (channel.Resume{}) {
			t.Errorf("a client that did not ask: %+v", resume)
		}
		c.leave()
		at, err := history.ParsePosition(c.joined(h, `{}`)["pos"].(string))
		if err != nil || resume != (channel.Resume{Asked: true}) {
			t.Errorf("a new client: %+v, %v", resume, err)
		}
		c.leave()
		broadcastN(t, ps, "msg", 1, 5)
		c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, at))
		if c.take(); resume != (channel.Resume{Asked: true, OK: true, Since: at}) {
			t.Errorf("a client that is recovered: %+v", resume)
		}
		if after := ch.Resume(); after != (channel.Resume{}) {
			t.Errorf("after the reply: %+v", after)
		}
		c.leave()
		broadcastN(t, ps, "msg", 6, 6)
		c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, at))
		if c.take(); resume != (channel.Resume{Asked: true, Since: at}) {
			t.Errorf("a client whose position was trimmed: %+v", resume)
		}
		c.leave()
	})
}

// TestReplayLetsTheClientSpeak replays more than one slice. The client's messages are handled
// between two of them.
func TestReplayLetsTheClientSpeak(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		h := plainRoom(onPush("echo", func(_ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}))
		c := newClient(t, ps)
		at := c.joined(h, `{}`)["pos"]
		c.leave()
		broadcastN(t, ps, "msg", 1, 200)
		c.drain(0)
		c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, at))
		synctest.Wait() // the channel is parked, so that the push comes while it reads
		c.atTen = func() { c.push("echo", `{"x":1}`) }
		c.drain(-1)
		got := c.messages()
		if !slices.Equal(numbers(t, got, "msg"), upTo(1, 200)) {
			t.Errorf("got %v", texts(got))
		}
		i := slices.IndexFunc(got, func(m message) bool { return m.payload == `{"x":1}` })
		if i < 0 || i > 65 {
			t.Errorf("the reply to a push is message %d of %d", i, len(got))
		}
		broadcastN(t, ps, "msg", 201, 201)
		if ns := numbers(t, c.messages(), "msg"); !slices.Equal(ns, upTo(201, 201)) {
			t.Errorf("live: %v", ns)
		}
		c.leave()
	})
}

// TestJoinReplyHasNoHistoryOfItsOwn checks replies that cannot have the member.
func TestJoinReplyHasNoHistoryOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for name, reply := range map[string]any{
			"its own": map[string]any{"$history": 1}, "an array": []int{1}, "a string": "x",
			"binary": serializer.Binary([]byte("x")),
		} {
			h := channel.Define(replies(reply))
			c := newClient(t, recordedTopic(history.Keep{}))
			c.join(h, `{"$history":{}}`)
			const crashed = `{"status":"error","response":{"reason":"join crashed"}}`
			if got := c.take(); len(got) != 1 || !strings.Contains(got[0], crashed) {
				t.Errorf("%s: %q", name, got)
			}
			if !strings.Contains(c.log(), "join crashed") {
				t.Errorf("%s: logged %q", name, c.log())
			}
			c.leave()
		}
		h := channel.Define(func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return map[string]any{"messages": []int{1}}, nil
		})
		c := newClient(t, recordedTopic(history.Keep{}))
		c.join(h, `{"$history":{}}`)
		got := c.take()
		const begin = `["1","1","room:1","phx_reply",{"status":"ok","response":{"$history":{"pos":"`
		if len(got) != 1 || !strings.HasPrefix(got[0], begin) ||
			!strings.HasSuffix(got[0], `","recovered":false,"missed":0,"why":"new"},"messages":[1]}}]`) {
			t.Errorf("%q", got)
		}
		c.leave()
	})
}

// TestSlowClientIsParked checks that nothing is dropped for a client that reads slowly, whether it
// is live or reading, and that the channel keeps its order.
func TestSlowClientIsParked(t *testing.T) {
	for name, h := range map[string]*channel.Handler{
		"plain": plainRoom(channel.OnSlow[nobody]("msg", 1)),
		"intercepting": plainRoom(intercept("odd", func(c *channel.Channel, p serializer.Payload) error {
			return c.Push("odd", p)
		})),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ps := recordedTopic(history.Keep{})
				c := newClient(t, ps)
				c.joined(h, `{}`)
				c.drain(2)
				var got []int
				receive := func() {
					for _, m := range c.messages() {
						got = append(got, numbers(t, []message{m}, "msg")...)
						if m.pos == "" {
							t.Errorf("no position: %+v", m)
						}
					}
				}
				broadcastN(t, ps, "msg", 1, 5)
				receive()
				if !slices.Equal(got, upTo(1, 2)) {
					t.Errorf("with room for 2: %v", got)
				}
				broadcastN(t, ps, "msg", 6, 100)
				for waits := true; waits; waits = len(c.waiting) > 0 {
					c.drain(7)
					receive()
				}
				if !slices.Equal(got, upTo(1, 100)) {
					t.Errorf("drained: %v", got)
				}
				c.drain(-1)
				broadcastN(t, ps, "msg", 101, 103)
				receive()
				if !slices.Equal(got, upTo(1, 103)) {
					t.Errorf("live again: %v", got)
				}
				if c.most > 1 {
					t.Errorf("%d drivers waited", c.most)
				}
				c.leave()
			})
		})
	}
}

// TestInterceptionKeepsTheOrder checks that an event that is not intercepted does not overtake one
// that is, whether the channel is live or reading.
func TestInterceptionKeepsTheOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		h := plainRoom(intercept("a", func(c *channel.Channel, p serializer.Payload) error {
			var in struct{ N int }
			if err := p.Decode(&in); err != nil || in.N == 0 {
				return err
			}
			time.Sleep(time.Second)
			return c.Push("a", p)
		}))
		c := newClient(t, ps)
		at := c.joined(h, `{}`)["pos"]
		broadcast := func() {
			broadcastN(t, ps, "a", 1, 1)
			broadcastN(t, ps, "b", 2, 2)
			broadcastN(t, ps, "a", 0, 0) // dropped
			broadcastN(t, ps, "a", 3, 3)
			broadcastN(t, ps, "b", 4, 4)
			time.Sleep(time.Minute)
		}
		want := []string{`a {"n":1}`, `$history {}`, `b {"n":2}`, `a {"n":3}`, `$history {}`, `b {"n":4}`}
		broadcast()
		live := c.messages()
		if got := texts(live); !slices.Equal(got, want) {
			t.Errorf("live: %q", got)
		}
		c.leave()
		c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, at))
		time.Sleep(time.Minute)
		replayed := c.messages()[1:]
		if got := texts(replayed); !slices.Equal(got, want) {
			t.Errorf("replay: %q", got)
		}
		for i := range min(len(live), len(replayed)) {
			if live[i].pos != replayed[i].pos || (live[i].pos == "") != (live[i].event == "a") {
				t.Errorf("message %d: %+v and %+v", i, live[i], replayed[i])
			}
		}
		c.leave()
	})
}

// TestOwnEvents checks who receives the events of a BroadcastFrom.
func TestOwnEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		during := false
		h := channel.Define(
			func(_ *nobody, ctx context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
				if during {
					return nil, c.Send(later{})
				}
				return nil, nil
			},
			channel.On("hush", func(_ *nobody, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.NoReply, c.BroadcastFrom("msg", p)
			}),
			channel.Info(func(_ *nobody, _ context.Context, c *channel.Channel, _ later) error {
				return c.BroadcastFrom("msg", map[string]int{"n": 100})
			}),
		)
		c, other := newClient(t, ps), newClient(t, ps)
		c.id = "abcdefghijklmnop"
		at := c.joined(h, `{}`)["pos"]
		other.joined(h, `{}`)
		for n := 1; n <= 40; n++ {
			c.push("hush", fmt.Sprintf(`{"n":%d}`, n))
			synctest.Wait()
		}
		positions := other.messages()
		if !slices.Equal(numbers(t, positions, "msg"), upTo(1, 40)) {
			t.Errorf("the other client got %v", texts(positions))
		}
		got := c.messages()
		if len(got) != 1 || got[0].event != "$history" || got[0].pos != positions[31].pos {
			t.Errorf("after 32 own events: %+v", got)
		}
		time.Sleep(4 * time.Second)
		if got := c.messages(); len(got) > 0 {
			t.Errorf("after 4 s: %+v", got)
		}
		time.Sleep(2 * time.Second)
		if got = c.messages(); len(got) != 1 || got[0].event != "$history" || got[0].pos != positions[39].pos {
			t.Errorf("after 6 s: %+v", got)
		}
		c.leave()

		broadcastN(t, ps, "msg", 41, 42)
		for _, tt := range []struct {
			id, own string
			want    []int
		}{
			{c.id, "true", upTo(1, 42)}, {c.id, "false", upTo(41, 42)}, {"", "false", upTo(1, 42)},
			{"qqqqqqqqqqqqqqqqqq", "false", upTo(1, 42)},
		} {
			again := newClient(t, ps)
			again.id = tt.id
			again.join(h, fmt.Sprintf(`{"$history":{"since":%q,"own":%s}}`, at, tt.own))
			if ns := numbers(t, again.messages(), "msg"); !slices.Equal(ns, tt.want) {
				t.Errorf("%+v: %v", tt, ns)
			}
			again.leave()
		}

		// A broadcast of its own while the channel is reading.
		during = true
		c.drain(0)
		c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, positions[39].pos))
		synctest.Wait()
		broadcastN(t, ps, "msg", 101, 101)
		c.drain(-1)
		if ns := numbers(t, c.messages(), "msg"); !slices.Equal(ns, []int{41, 42, 101}) {
			t.Errorf("while reading: %v", ns)
		}
		c.leave()
		other.leave()
	})
}

type later struct{}
