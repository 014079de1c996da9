package channel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/stream"
)

// credited joins room:1 with params. The result is the server's channel.
func credited(
	t *testing.T, ps *pubsub.PubSub, params string, options ...channel.Option[nobody],
) (*client, *channel.Channel) {
	t.Helper()
	c := newClient(t, ps)
	var ch *channel.Channel
	c.join(channel.Define(
		func(_ *nobody, _ context.Context, now *channel.Channel, p serializer.Payload) (any, error) {
			ch = now
			if _, _, found := p.Cut("$credit"); found {
				t.Error("the join callback sees $credit")
			}
			return nil, nil
		}, options...), params)
	c.messages()
	return c, ch
}

func TestCredit(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		ps := pubsub.New(nil)
		c, ch := credited(t, ps, `{"$credit":2}`)
		other, _ := credited(t, ps, `{}`)
		push := func(event string) error { return ch.Push(event, nil) }
		if err := errors.Join(push("a"), push("b"), push("presence_state")); err != nil {
			t.Error(err)
		}
		if err := push("c"); !errors.Is(err, channel.ErrNoCredit) || ch.Credit() != 0 {
			t.Errorf("without credit: %v, %d", err, ch.Credit())
		}
		broadcastN(t, ps, "news", 1, 3)
		if err := ps.Broadcast(t.Context(), "room:1", "presence_diff", nil); err != nil {
			t.Error(err)
		}
		all := []string{"a {}", "b {}", "presence_state {}", "presence_diff {}"}
		if got := texts(c.messages()); !slices.Equal(got, all) {
			t.Errorf("received %q", got)
		}
		if got := numbers(t, other.messages(), "news"); !slices.Equal(got, upTo(1, 3)) {
			t.Errorf("another client received %v", got)
		}
		c.push("$credit", `{"add":3}`)
		broadcastN(t, ps, "news", 4, 4)
		if got := texts(c.messages()); !slices.Equal(got, []string{`news {"n":4}`}) || ch.Credit() != 2 {
			t.Errorf("received %q, left %d", got, ch.Credit())
		}
		c.push("$credit", `{"add":1000000}`)
		if ch.Credit() != 1_000_000 {
			t.Errorf("the sum is not capped: %d", ch.Credit())
		}
		for _, bad := range []string{
			`{}`, `{"add":0}`, `{"add":-1}`, `{"add":1000001}`, `{"add":"1"}`, `{"add":1.5}`, `[]`, `7`,
		} {
			c.push("$credit", bad)
			if got := texts(c.messages()); !slices.Equal(got, []string{`phx_reply {"reason":"invalid credit"}`}) {
				t.Errorf("%s: %q", bad, got)
			}
		}
		other.push("$credit", `{"add":1}`)
		if got := texts(other.messages()); !slices.Contains(got, `phx_reply {"reason":"invalid credit"}`) {
			t.Errorf("a client that did not ask: %q", got)
		}
		c.leave()
		other.leave()
		for _, bad := range []string{`0`, `-1`, `1000001`, `"1"`, `null`, `{}`} {
			c := newClient(t, ps)
			c.join(plainRoom(), `{"$credit":`+bad+`}`)
			if got := texts(c.messages()); !slices.Equal(got, []string{`phx_reply {"reason":"invalid credit"}`}) {
				t.Errorf("join with %s: %q", bad, got)
			}
			c.leave()
		}
	})
}

// TestReady waits for credit in a callback, which the client's messages would wait for.
func TestReady(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c, ch := credited(t, pubsub.New(nil), `{"$credit":1}`, channel.On("start",
			func(_ *nobody, ctx context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				for n := range 5 {
					if err := c.Ready(ctx); err != nil {
						return push.NoReply, err
					}
					if err := c.Push("token", n); err == nil {
						t.Error("a number is an object")
					}
					if err := c.Push("token", map[string]int{"n": n}); err != nil && !errors.Is(err, channel.ErrNoCredit) {
						return push.NoReply, err
					}
				}
				return push.OK(nil), nil
			}))
		c.push("start", `{}`)
		for range 10 {
			c.messages()
			c.push("$credit", `{"add":1}`)
		}
		synctest.Wait()
		for ch.Credit() > 0 {
			if err := ch.Push("more", nil); err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := ch.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		waited := make(chan error)
		go func() { waited <- ch.Ready(t.Context()) }()
		synctest.Wait()
		c.leave()
		if err := <-waited; !errors.Is(err, channel.ErrClosed) {
			t.Errorf("at the end of the channel: %v", err)
		}
	})
}

// TestNoCreditIsNotACrash lets callbacks return the error of Push.
func TestNoCreditIsNotACrash(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		ps := pubsub.New(nil)
		c, ch := credited(t, ps, `{"$credit":1}`,
			intercept("news", func(c *channel.Channel, p serializer.Payload) error { return c.Push("filtered", p) }),
			onPush("say", func(c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				return push.OK(nil), c.Push("said", nil)
			}),
			onPush("mute", func(c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				return push.NoReply, c.Push("said", nil)
			}))
		broadcastN(t, ps, "news", 1, 3)
		c.push("say", `{}`)
		c.push("mute", `{}`)
		want := []string{`filtered {"n":1}`, "phx_reply {}", `phx_reply {"reason":"no credit"}`}
		if got := texts(c.messages()); !slices.Equal(got, want) || c.log() != "" {
			t.Errorf("%q, log %s", got, c.log())
		}
		if err := ch.Finish(nil); err != nil {
			t.Error(err)
		}
		c.leave()
	})
}

func backlogKinds(all []stream.Stats) (names []string) {
	for _, s := range all {
		names = append(names, s.Kind.String())
	}
	return names
}

// TestCreditParksRecords checks that recorded events wait in the log, in order and each once.
func TestCreditParksRecords(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]string{"asked": `{"$history":{},"$credit":3}`, "not asked": `{"$credit":3}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				ps := recordedTopic(history.Keep{})
				c, ch := credited(t, ps, ask)
				var got []int
				take := func() { got = append(got, numbers(t, c.messages(), "msg")...) }
				broadcastN(t, ps, "msg", 1, 200)
				if take(); !slices.Equal(got, upTo(1, 3)) || ch.Credit() != 0 {
					t.Fatalf("%v with %d left", got, ch.Credit())
				}
				if got := backlogKinds(ch.Backlogs()); !slices.Equal(got, []string{"mailbox", "outgoing", "parked"}) {
					t.Errorf("backlogs of a channel that waits for credit: %v", got)
				}
				for len(got) < 150 {
					c.push("$credit", `{"add":7}`)
					take()
				}
				c.push("$credit", `{"add":1000}`)
				broadcastN(t, ps, "msg", 201, 210) // live again
				if take(); !slices.Equal(got, upTo(1, 210)) {
					t.Errorf("%v", got)
				}
				if got := backlogKinds(ch.Backlogs()); !slices.Equal(got, []string{"mailbox", "outgoing"}) {
					t.Errorf("backlogs of a channel that waits for nothing: %v", got)
				}
				c.leave()
				if got := ch.Backlogs(); len(got) > 0 {
					t.Errorf("backlogs after the end: %+v", got)
				}
			})
		})
	}
}

// TestCreditOverCuts joins again at each number of events, and continues after the position.
func TestCreditOverCuts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		const n = 30
		broadcastN(t, ps, "msg", 1, 1)
		c, _ := credited(t, ps, `{"$history":{"last":1},"$credit":2}`)
		broadcastN(t, ps, "msg", 2, n)
		c.leave()
		var got []int
		since := ""
		ask := `{"$history":{"last":100},"$credit":2}`
		for cut := 0; len(got) < n; cut++ {
			if cut > 2*n {
				t.Fatal("it does not go on")
			}
			c := newClient(t, ps)
			c.join(plainRoom(), ask)
			for range cut % 3 {
				c.push("$credit", `{"add":1}`)
			}
			list := c.messages()
			for _, m := range list {
				if m.pos != "" {
					since = m.pos
				}
			}
			got = append(got, numbers(t, list, "msg")...)
			c.leave()
			ask = fmt.Sprintf(`{"$history":{"since":%q},"$credit":2}`, since)
		}
		if !slices.Equal(got, upTo(1, n)) {
			t.Errorf("%v", got)
		}
	})
}

func TestFinish(t *testing.T) {
	t.Parallel()
	const closeFrame = "phx_close {}"
	for name, test := range map[string]struct {
		params string
		err    error
		want   []string
	}{
		"with credit": {`{"$credit":9}`, nil, []string{"$end {}", closeFrame}},
		"a reason": {
			`{"$credit":9}`, push.Reason("model"), []string{`$end {"error":{"reason":"model"}}`, closeFrame},
		},
		"a payload": {
			`{"$credit":9}`, push.Reject(note{"x"}), []string{`$end {"error":{"text":"x"}}`, closeFrame},
		},
		"an error": {
			`{"$credit":9}`, errors.New("secret"), []string{`$end {"error":{"reason":"failed"}}`, closeFrame},
		},
		"a bad payload": {
			`{"$credit":9}`, push.Reject(make(chan int)), []string{`$end {"error":{"reason":"failed"}}`, closeFrame},
		},
		"not asked":        {`{}`, nil, []string{closeFrame}},
		"not asked, error": {`{}`, push.Reason("model"), []string{`phx_close {"reason":"model"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				c, ch := credited(t, pubsub.New(nil), test.params)
				if err := ch.Push("token", nil); err != nil {
					t.Error(err)
				}
				for range 2 { // the second has no effect
					if err := ch.Finish(test.err); err != nil {
						t.Error(err)
					}
				}
				want := append([]string{"token {}"}, test.want...)
				if got := texts(c.messages()); !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
				if err := ch.Finish(nil); !errors.Is(err, channel.ErrClosed) {
					t.Error(err)
				}
				c.leave()
			})
		})
	}
}

// TestFinishOfParkedChannel finishes a channel whose records wait for credit.
func TestFinishOfParkedChannel(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		c, ch := credited(t, ps, `{"$history":{},"$credit":1}`)
		broadcastN(t, ps, "msg", 1, 5)
		if err := ch.Finish(nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		broadcastN(t, ps, "msg", 6, 9) // after Finish: not a part of the stream
		var got []message
		for n := range 4 {
			time.Sleep(20 * time.Second) // virtual: each credit gives 30 s more
			c.push("$credit", `{"add":1}`)
			got = append(got, c.messages()...)
			if n < 3 && ch.Credit() != 0 {
				t.Error("credit is left")
			}
		}
		list := texts(got)
		if ns := numbers(t, got, "msg"); !slices.Equal(ns, upTo(1, 5)) || list[len(list)-2] != "$end {}" {
			t.Errorf("%q", list)
		}
		c.leave()

		c, ch = credited(t, ps, `{"$history":{},"$credit":1}`)
		broadcastN(t, ps, "msg", 10, 12)
		if err := ch.Finish(nil); err != nil {
			t.Error(err)
		}
		time.Sleep(29 * time.Second)
		before := len(c.messages())
		time.Sleep(2 * time.Second)
		want := []string{`$end {"error":{"reason":"no credit"}}`, "phx_close {}"}
		if got := texts(c.messages()); before != 1 || !slices.Equal(got, want) {
			t.Errorf("%d, then %q", before, got)
		}
		c.leave()
	})
}

// TestCreditAtRandom adds credit at random while events are broadcast, pushed and dropped for lack
// of room. No record is lost or repeated, and no more events come than the credit allows.
func TestCreditAtRandom(t *testing.T) {
	t.Parallel()
	var added atomic.Int64
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		c, _ := credited(t, ps, `{"$history":{},"$credit":5}`)
		added.Store(5)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for n := range 400 {
				broadcastN(t, ps, "msg", n+1, n+1)
				time.Sleep(time.Duration(n%7) * time.Millisecond)
			}
		}()
		var got []int
		for k := 0; len(got) < 400; k++ {
			if k > 5000 {
				t.Fatalf("only %d records came", len(got))
			}
			time.Sleep(time.Duration(k%5) * time.Millisecond)
			c.drain(k % 9)
			n := int64(k % 4)
			if n > 0 {
				added.Add(n)
				c.push("$credit", fmt.Sprintf(`{"add":%d}`, n))
			}
			got = append(got, numbers(t, c.messages(), "msg")...)
			if int64(len(got)) > added.Load() {
				t.Fatalf("%d records for a credit of %d", len(got), added.Load())
			}
		}
		<-done
		if !slices.Equal(got, upTo(1, 400)) {
			t.Errorf("%v", got)
		}
		c.leave()
	})
}
