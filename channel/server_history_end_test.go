package channel_test

import (
	"context"
	"errors"
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

// TestBinaryRecords checks that the position follows a binary record, and that a client whose
// version cannot carry it receives the position only.
func TestBinaryRecords(t *testing.T) {
	for _, s := range serializer.Default() {
		bubble(t, func(t *testing.T) {
			ps := recordedTopic(history.Keep{})
			h := plainRoom()
			c, plain := newClient(t, ps), newClient(t, ps)
			c.ser, plain.ser = s, s
			at := c.joined(h, `{}`)["pos"]
			plain.join(h, `{}`)
			plain.take()
			if err := ps.Broadcast(t.Context(), "room:1", "bytes", serializer.Binary([]byte("xy"))); err != nil {
				t.Errorf("version %s: the sender got %v", s.Version(), err)
			}
			broadcastN(t, ps, "msg", 1, 1)
			want := []string{"bytes binary xy", "$history {}", `msg {"n":1}`}
			if s.Version() == "1.0.0" {
				want = want[1:]
			}
			live := c.messages()
			if got := texts(live); !slices.Equal(got, want) {
				t.Errorf("version %s, live: %q", s.Version(), got)
			}
			if got := texts(plain.messages()); slices.Contains(got, "$history {}") || !slices.Contains(got, `msg {"n":1}`) {
				t.Errorf("version %s, a client that did not ask: %q", s.Version(), got)
			}
			c.leave()
			c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, at))
			replayed := c.messages()[1:]
			if got := texts(replayed); !slices.Equal(got, want) {
				t.Errorf("version %s, replay: %q", s.Version(), got)
			}
			for i, m := range replayed {
				if i < len(live) && m.pos != live[i].pos {
					t.Errorf("version %s: %+v, live %+v", s.Version(), m, live[i])
				}
			}
			// A client that cannot miss anything, and has no place in the log.
			gap := newClient(t, recordedTopic(history.Keep{NoGap: true}))
			gap.ser = s
			gap.join(h, `{}`)
			gap.take()
			for range 2 {
				if err := gap.ps.Broadcast(t.Context(), "room:1", "bytes", serializer.Binary([]byte("xy"))); err != nil {
					t.Errorf("version %s: the sender got %v", s.Version(), err)
				}
			}
			broadcastN(t, gap.ps, "msg", 1, 1)
			want = slices.DeleteFunc([]string{"bytes binary xy", "bytes binary xy", `msg {"n":1}`}, func(text string) bool {
				return s.Version() == "1.0.0" && strings.HasPrefix(text, "bytes")
			})
			if got := texts(gap.messages()); !slices.Equal(got, want) {
				t.Errorf("version %s, NoGap: %q", s.Version(), got)
			}
			for _, c := range []*client{c, plain, gap} {
				n, want := strings.Count(c.log(), "record cannot be sent"), 0
				if s.Version() == "1.0.0" {
					want = c.ref // once for each channel
				}
				if n != want {
					t.Errorf("version %s: logged %q", s.Version(), c.log())
				}
				c.leave()
			}
		})
	}
}

// TestForgetEndsChannelsThatAsked checks that a client that asked is told so, and that others go
// on.
func TestForgetEndsChannelsThatAsked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		var reason error
		h := plainRoom(channel.Terminate(func(_ *nobody, _ context.Context, _ *channel.Channel, err error) { reason = err }))
		asked, plain, parked := newClient(t, ps), newClient(t, ps), newClient(t, ps)
		at := asked.joined(h, `{}`)["pos"]
		parked.joined(plainRoom(), `{}`)
		plain.join(plainRoom(), `{}`)
		parked.drain(0)
		broadcastN(t, ps, "msg", 1, 1)
		plain.take()
		asked.take()
		if err := ps.Forget(t.Context(), "room:1"); err != nil {
			t.Fatal(err)
		}
		broadcastN(t, ps, "msg", 2, 2)
		time.Sleep(3 * time.Second)
		want := []string{`["1","1","room:1","phx_error",{"reason":"history lost"}]`}
		if got := asked.take(); !slices.Equal(got, want) {
			t.Errorf("a client that asked: %q", got)
		}
		if reason == nil || reason.Error() != "history lost" {
			t.Errorf("Terminate got %v", reason)
		}
		parked.drain(-1)
		if got := parked.take(); !slices.Equal(got, want) {
			t.Errorf("a parked client: %q", got)
		}
		if got := texts(plain.messages()); !slices.Equal(got, []string{`msg {"n":2}`}) {
			t.Errorf("a client that did not ask: %q", got)
		}
		if r := asked.joined(h, fmt.Sprintf(`{"since":%q}`, at)); r["why"] != "epoch" || r["recovered"] != false {
			t.Errorf("the rejoin: %v", r)
		}
		for _, c := range []*client{asked, plain, parked} {
			c.leave()
			if log := c.log(); log != "" {
				t.Errorf("logged %q", log)
			}
		}
	})
}

// TestTrimmedWhileReading checks the end of a client that is too slow for what the log keeps.
func TestTrimmedWhileReading(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{Count: 3, Bytes: 200})
		h := plainRoom()
		asked, plain := newClient(t, ps), newClient(t, ps)
		asked.joined(h, `{}`)
		asked.drain(0)
		plain.drain(0)
		plain.join(channel.Define(func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			broadcastN(t, ps, "msg", 1, 1)
			return nil, nil
		}), `{}`)
		synctest.Wait()
		for n := 2; n <= 1000; n++ {
			broadcastN(t, ps, "msg", n, n)
		}
		time.Sleep(time.Minute)
		asked.drain(-1)
		plain.drain(-1)
		if got := asked.take(); !slices.Equal(got, []string{`["1","1","room:1","phx_error",{"reason":"history lost"}]`}) {
			t.Errorf("a client that asked: %q", got)
		}
		plain.take()
		broadcastN(t, ps, "msg", 1001, 1001)
		if ns := numbers(t, plain.messages(), "msg"); !slices.Equal(ns, upTo(1001, 1001)) {
			t.Errorf("a client that did not ask: %v", ns)
		}
		if !strings.Contains(plain.log(), "history skipped") {
			t.Errorf("logged %q", plain.log())
		}
		asked.leave()
		plain.leave()
	})
}

// TestHotTopicStaysJoinable records more than the log keeps while join callbacks run.
func TestHotTopicStaysJoinable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{Count: 10})
		h := channel.Define(func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			broadcastN(t, ps, "msg", 1, 200)
			return nil, nil
		})
		c := newClient(t, ps)
		for _, params := range []string{`{}`, `{"$history":{}}`} {
			c.join(h, params)
			got := c.messages()
			if ns := numbers(t, got, "msg"); got[0].status != "ok" || !slices.Equal(ns, upTo(1, 200)) {
				t.Errorf("%s: %v, %d events", params, got[0], len(ns))
			}
			c.leave()
		}

		// Beyond the bound in bytes, clients without a position join with a gap. One that continues
		// must not believe that it is recovered.
		ps = recordedTopic(history.Keep{Count: 10, Bytes: 1000})
		hot := false
		h = channel.Define(func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			if hot {
				broadcastN(t, ps, "msg", 1, 2000)
			}
			return nil, nil
		})
		c = newClient(t, ps)
		at := c.joined(h, `{}`)["pos"]
		c.leave()
		hot = true
		for _, tt := range []struct{ params, want string }{
			{`{}`, `ok {}`}, {`{"$history":{}}`, `ok {}`},
			{fmt.Sprintf(`{"$history":{"since":%q}}`, at), `ok {}`}, // trimmed by the joins before
		} {
			c.join(h, tt.params)
			got := c.messages()
			if got[0].status+" "+got[0].payload != tt.want || got[0].history != nil && got[0].history["recovered"] != false {
				t.Errorf("%s: %+v", tt.params, got[0])
			}
			broadcastN(t, ps, "msg", 2001, 2001)
			got = c.messages()
			if ns := numbers(t, got, "msg"); len(ns) == 0 || ns[len(ns)-1] != 2001 {
				t.Errorf("%s: %v", tt.params, ns)
			}
			c.leave()
		}
		hot = false
		at = c.joined(h, `{}`)["pos"]
		c.leave()
		hot = true
		c.join(h, fmt.Sprintf(`{"$history":{"since":%q}}`, at))
		if got := c.messages(); got[0].status != "error" || got[0].payload != `{"reason":"history changed"}` {
			t.Errorf("continued: %+v", got[0])
		}
		c.leave()
	})
}

// brokenLog is a log that does not answer.
type brokenLog struct {
	*history.Memory
	broken bool
}

func (l *brokenLog) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	if l.broken {
		return r, history.ErrUnavailable
	}
	return l.Memory.Append(ctx, topic, r, k)
}

func (l *brokenLog) Tops(ctx context.Context, topics []string) ([]history.Position, error) {
	if l.broken {
		return nil, history.ErrUnavailable
	}
	return l.Memory.Tops(ctx, topics)
}

// TestUnavailableLog checks that a log that does not answer ends no channel.
func TestUnavailableLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log := &brokenLog{Memory: history.NewMemory(history.MemoryConfig{})}
		ps := pubsub.NewRecorded(nil, log, history.Rules{"room:*": {}})
		joinBroadcasts := false
		h := channel.Define(
			func(_ *nobody, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
				if joinBroadcasts {
					return nil, ps.Broadcast(ctx, "room:2", "msg", nil)
				}
				return nil, nil
			},
			channel.On("say", func(_ *nobody, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.OK(nil), c.Broadcast("msg", p)
			}),
			channel.On("hear", func(_ *nobody, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.NoReply, errors.Join(errors.New("no luck"), c.Broadcast("msg", p))
			}),
			channel.Info(func(_ *nobody, _ context.Context, c *channel.Channel, _ later) error {
				return c.Broadcast("msg", nil)
			}),
		)
		c := newClient(t, ps)
		c.joined(h, `{}`)
		log.broken = true
		c.push("hear", `{}`)
		want := []string{`["1","2","room:1","phx_reply",{"status":"error","response":{"reason":"history unavailable"}}]`}
		if got := c.take(); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		c.push("say", `{}`) // its reply would be ok
		want[0] = strings.Replace(want[0], `"2"`, `"3"`, 1)
		if got := c.take(); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		log.broken = false
		c.push("say", `{"n":1}`)
		if got := texts(c.messages()); !slices.Equal(got, []string{`msg {"n":1}`, `phx_reply {}`}) {
			t.Errorf("later: %q", got)
		}
		c.leave()

		log.broken, joinBroadcasts = true, true
		other := newClient(t, ps)
		other.join(h, `{}`)
		if got := texts(other.messages()); !slices.Equal(got, []string{`phx_reply {"reason":"history unavailable"}`}) {
			t.Errorf("a join callback that broadcasts: %q", got)
		}
		other.leave()
		joinBroadcasts = false
		other.join(h, `{"$history":{}}`)
		if got := texts(other.messages()); !slices.Equal(got, []string{`phx_reply {"reason":"history unavailable"}`}) {
			t.Errorf("a join that asks: %q", got)
		}
		other.leave()
		other.join(h, `{}`)
		if got := texts(other.messages()); !slices.Equal(got, []string{`phx_reply {}`}) {
			t.Errorf("a join that does not ask: %q", got)
		}
		other.leave()
	})
}

// failingLog is a log whose appends return err, unless it is nil.
type failingLog struct {
	*history.Memory
	err error
}

func (l *failingLog) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	if l.err != nil {
		return r, l.err
	}
	return l.Memory.Append(ctx, topic, r, k)
}

// TestErrorsOfRecordedBroadcasts checks which error reply a client receives if its callback returns
// the error of a recorded broadcast, and that the channel goes on.
func TestErrorsOfRecordedBroadcasts(t *testing.T) {
	type payload = serializer.Payload
	for name, tc := range map[string]struct {
		err     error
		payload string // of the push, which is broadcast
		reason  string
	}{
		"unavailable": {history.ErrUnavailable, `{}`, "history unavailable"},
		"uncertain":   {history.ErrUncertain, `{}`, "history unavailable"},
		"full":        {history.ErrFull, `{}`, "history unavailable"},
		"reserved":    {nil, `{"a":1,"$pos":"x"}`, "reserved member"},
		"too large":   {nil, `{"a":"` + strings.Repeat("x", 200) + `"}`, "payload too large"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				log := &failingLog{Memory: history.NewMemory(history.MemoryConfig{})}
				ps := pubsub.NewRecorded(nil, log, history.Rules{"room:*": {Bytes: 100}})
				h := channel.Define(
					func(_ *nobody, ctx context.Context, _ *channel.Channel, p serializer.Payload) (any, error) {
						return nil, ps.Broadcast(ctx, "room:2", "msg", p)
					},
					channel.On("say", func(_ *nobody, _ context.Context, c *channel.Channel, p payload) (push.Reply, error) {
						return push.OK(nil), c.Broadcast("msg", p)
					}),
					channel.On("send", func(_ *nobody, _ context.Context, c *channel.Channel, p payload) (push.Reply, error) {
						return push.NoReply, c.Send(p)
					}),
					channel.Info(func(_ *nobody, _ context.Context, c *channel.Channel, p serializer.Payload) error {
						return c.Broadcast("msg", p)
					}),
				)
				c, other := newClient(t, ps), newClient(t, ps)
				c.join(h, `{}`)
				c.take()

				log.err = tc.err
				want := []string{fmt.Sprintf(`phx_reply {"reason":%q}`, tc.reason)}
				c.push("say", tc.payload)
				if got := texts(c.messages()); !slices.Equal(got, want) {
					t.Errorf("a push: %q", got)
				}
				c.push("send", tc.payload)
				if got := texts(c.messages()); len(got) > 0 {
					t.Errorf("a message: %q", got)
				}
				if n := strings.Count(c.log(), "recorded broadcast failed"); n != 2 {
					t.Errorf("%d errors were logged: %s", n, c.log())
				}
				other.join(h, tc.payload)
				if got := texts(other.messages()); !slices.Equal(got, want) {
					t.Errorf("a join: %q", got)
				}
				log.err = nil
				c.push("say", `{"n":1}`)
				if got := texts(c.messages()); !slices.Equal(got, []string{`msg {"n":1}`, `phx_reply {}`}) {
					t.Errorf("later: %q", got)
				}
				c.leave()
				other.leave()
			})
		})
	}
}

// TestPolicyIsIgnoredForRecords checks the warning, once for a handler.
func TestPolicyIsIgnoredForRecords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := plainRoom(channel.OnSlow[nobody]("msg", 2), channel.OnSlow[nobody]("presence_diff", 2))
		ps := recordedTopic(history.Keep{})
		logged := ""
		for range 3 {
			c := newClient(t, ps)
			c.joined(h, `{}`)
			c.leave()
			logged += c.log()
		}
		if strings.Count(logged, "history policy ignored") != 1 {
			t.Errorf("logged %q", logged)
		}
	})
}
