package channel_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// replaying is a handler whose join callback replays from a position. The error goes to failed.
func replaying(from func() history.Position, failed *error, options ...channel.Option[nobody]) *channel.Handler {
	return channel.Define(func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
		*failed = c.ReplayFrom(from())
		return nil, nil
	}, options...)
}

// offsets returns the positions of the first n records of room:1.
func offsets(t *testing.T, ps *pubsub.PubSub, n int) (all []history.Position) {
	t.Helper()
	b, err := ps.Before(t.Context(), "room:1", history.Position{}, n)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, b.After)
	for _, r := range b.Records {
		all = append(all, r.Position)
	}
	return all
}

// TestReplayFrom has a join that continues behind the position of a snapshot.
func TestReplayFrom(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]string{
		"new": `{}`, "with last": `{"last":1}`, "another epoch": `{"since":"zzzzzzzzzzzz-3-0z0z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				ps := recordedTopic(history.Keep{})
				broadcastN(t, ps, "said", 1, 200)
				at := offsets(t, ps, 200)[40]
				var failed error
				h := replaying(func() history.Position {
					broadcastN(t, ps, "said", 201, 201) // during the callback
					return at
				}, &failed)
				c := newClient(t, ps)
				c.join(h, `{"$history":`+ask+`}`)
				list := c.messages()
				if failed != nil {
					t.Fatal(failed)
				}
				h1 := list[0].history
				if h1["recovered"] != false || h1["pos"] != at.String() || h1["missed"] != 161.0 || h1["why"] == nil {
					t.Errorf("the reply has %v", h1)
				}
				broadcastN(t, ps, "said", 202, 202)
				list = append(list, c.messages()...)
				if got := numbers(t, list, "said"); !reflect.DeepEqual(got, upTo(41, 202)) {
					t.Errorf("received %v", got)
				}
				c.leave()
			})
		})
	}
}

// TestReplayFromRefused has positions and joins that cannot be replayed from. The join goes on as
// if nothing had happened.
func TestReplayFromRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ask string
		keep      history.Keep
		from      func(all []history.Position) history.Position
		reach     time.Duration
		want      error // Nil means any.
	}{
		{"zero", `{}`, history.Keep{}, func([]history.Position) history.Position { return history.Position{} },
			0, history.ErrPosition},
		{"trimmed", `{}`, history.Keep{Count: 5}, func(all []history.Position) history.Position { return all[2] },
			0, history.ErrTrimmed},
		{"too many", `{}`, history.Keep{MaxReplay: 5}, func(all []history.Position) history.Position { return all[2] },
			0, history.ErrTrimmed},
		{"beyond reach", `{}`, history.Keep{}, func(all []history.Position) history.Position { return all[2] },
			time.Minute, history.ErrTrimmed},
		{"another epoch", `{}`, history.Keep{}, func([]history.Position) history.Position {
			p, _ := history.ParsePosition("zzzzzzzzzzzz-3-0z0z")
			return p
		}, 0, history.ErrEpoch},
		{"continues", ``, history.Keep{}, func(all []history.Position) history.Position { return all[2] }, 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				ps := recordedTopic(test.keep)
				var all []history.Position
				for n := 1; n <= 10; n++ {
					broadcastN(t, ps, "said", n, n)
					all = append(all, offsets(t, ps, 1)[1])
				}
				<-time.After(2 * time.Minute)
				if test.ask == "" {
					test.ask = `{"since":"` + all[9].String() + `"}`
				}
				var options []channel.Option[nobody]
				if test.reach > 0 {
					options = append(options, channel.Reach(func(*nobody, context.Context, *channel.Channel) time.Time {
						return time.Now().Add(-test.reach)
					}))
				}
				var failed error
				h := replaying(func() history.Position { return test.from(all) }, &failed, options...)
				c := newClient(t, ps)
				got := c.joined(h, test.ask)
				if failed == nil || test.want != nil && !errors.Is(failed, test.want) {
					t.Errorf("the error is %v, want %v", failed, test.want)
				}
				if got["pos"] != all[9].String() || got["missed"] != 0.0 {
					t.Errorf("the reply has %v", got)
				}
				broadcastN(t, ps, "said", 11, 11)
				if got := numbers(t, c.messages(), "said"); !reflect.DeepEqual(got, []int{11}) {
					t.Errorf("received %v", got)
				}
				c.leave()
			})
		})
	}
}

// TestReplayFromMisused calls it for clients that did not ask, on topics that are not recorded, and
// after the join.
func TestReplayFromMisused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		broadcastN(t, ps, "said", 1, 1)
		at := offsets(t, ps, 1)[0]
		var failed error
		var joined *channel.Channel
		h := channel.Define(func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			joined, failed = c, c.ReplayFrom(at)
			return nil, nil
		})
		c := newClient(t, ps)
		c.join(h, `{}`)
		c.messages()
		if failed == nil {
			t.Error("a client that did not ask is replayed to")
		}
		if joined.ReplayFrom(at) == nil {
			t.Error("it is replayed after the join")
		}
		c.leave()
		c = newClient(t, pubsub.New(nil))
		c.join(h, `{"$history":{}}`)
		c.messages()
		if !errors.Is(failed, history.ErrNoRule) {
			t.Errorf("not recorded: %v", failed)
		}
		c.leave()
	})
}

// TestReplayFromTrimmedMeanwhile has records after the position that are trimmed while the join
// callback runs. The client must not get a snapshot with a gap behind it.
func TestReplayFromTrimmedMeanwhile(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{Count: 5, Bytes: 100})
		broadcastN(t, ps, "said", 1, 5)
		h := channel.Define(func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			if err := c.ReplayFrom(offsets(t, ps, 5)[1]); err != nil {
				t.Error(err)
			}
			broadcastN(t, ps, "said", 6, 100)
			return nil, nil
		})
		c := newClient(t, ps)
		c.join(h, `{"$history":{}}`)
		list := c.messages()
		if len(list) != 1 || list[0].status != "error" || list[0].payload != `{"reason":"history changed"}` {
			t.Errorf("%+v", list)
		}
		c.leave()
	})
}
