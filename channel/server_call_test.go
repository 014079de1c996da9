package channel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// caller is a client that answers calls, and the server's channel that makes them.
type caller struct {
	*client
	ch *channel.Channel
}

// answering joins with $calls. The handler has the options.
func answering(t *testing.T, events string, options ...channel.Option[nobody]) *caller {
	t.Helper()
	c := &caller{client: newClient(t, pubsub.New(nil))}
	h := channel.Define(
		func(_ *nobody, _ context.Context, ch *channel.Channel, p serializer.Payload) (any, error) {
			c.ch = ch
			if _, _, found := p.Cut("$calls"); found {
				t.Error("the join callback sees $calls")
			}
			return nil, nil
		}, options...)
	c.join(h, `{"$calls":`+events+`}`)
	synctest.Wait()
	return c
}

// result is the end of a call.
type result struct {
	answer serializer.Payload
	err    error
}

// start calls on a goroutine. The channel receives the result.
func (c *caller) start(ctx context.Context, event string, payload any) <-chan result {
	done := make(chan result, 1)
	go func() {
		answer, err := c.ch.Call(ctx, event, payload)
		done <- result{answer, err}
	}()
	synctest.Wait()
	return done
}

// asked returns the ids of the calls that were sent since the last time.
func (c *caller) asked() (ids []string) {
	c.t.Helper()
	for _, m := range c.messages() {
		var call struct {
			ID string `json:"$call"`
		}
		if json.Unmarshal([]byte(m.payload), &call) == nil && call.ID != "" {
			ids = append(ids, call.ID)
		}
	}
	return ids
}

func (c *caller) answer(id, status, response string) {
	c.t.Helper()
	c.push("$reply", fmt.Sprintf(`{"$call":%q,"status":%q,"response":%s}`, id, status, response))
}

// pushBinary pushes a binary payload.
func (c *caller) pushBinary(event string, data []byte) {
	m := serializer.Message{Ref: `"9"`, Topic: "room:1", Event: event, Payload: serializer.Binary(data)}
	receive(c.d, m, time.Second)
}

func wantResult(t *testing.T, done <-chan result, answer string, is error) {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-done:
		raw := string(r.answer.Bytes())
		if is == nil && (r.err != nil || raw != answer) || is != nil && !errors.Is(r.err, is) {
			t.Errorf("the call ended with %s, %v, want %s, %v", raw, r.err, answer, is)
		}
	default:
		t.Errorf("the call has not ended, want %s, %v", answer, is)
	}
}

func TestCall(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := answering(t, `["confirm"]`)
		if got := c.take(); len(got) != 1 || got[0] != joinedOK {
			t.Fatal(got)
		}
		first := c.start(t.Context(), "confirm", map[string]int{"amount": 30})
		second := c.start(t.Context(), "confirm", nil)
		frames := c.take()
		var parts []any
		if err := json.Unmarshal([]byte(frames[0]), &parts); err != nil {
			t.Fatal(err)
		}
		id, _ := parts[4].(map[string]any)["$call"].(string)
		if want := `["1",null,"room:1","confirm",{"$call":"` + id + `","amount":30}]`; frames[0] != want || id == "" {
			t.Errorf("sent %s, want %s", frames[0], want)
		}
		var other []any
		_ = json.Unmarshal([]byte(frames[1]), &other)
		id2 := other[4].(map[string]any)["$call"].(string)
		c.answer(id2, "error", `{"reason":"busy"}`)
		wantResult(t, second, "", push.Reason("busy"))
		c.answer(id, "ok", `{"yes":true}`)
		wantResult(t, first, `{"yes":true}`, nil)
		if got := c.take(); len(got) != 0 {
			t.Errorf("an answer was answered: %s", got)
		}

		binary := c.start(t.Context(), "confirm", nil)
		c.pushBinary("$reply:"+c.asked()[0], []byte{1, 2})
		wantResult(t, binary, "\x01\x02", nil)
		c.leave()
	})
}

func TestCallErrors(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		var early error
		c := newClient(t, pubsub.New(nil))
		var ch *channel.Channel
		h := channel.Define(
			func(_ *nobody, ctx context.Context, now *channel.Channel, _ serializer.Payload) (any, error) {
				_, early = now.Call(ctx, "confirm", nil)
				ch = now
				return nil, nil
			})
		c.join(h, `{"$calls":["confirm"]}`)
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for name, test := range map[string]struct {
			ctx     context.Context
			event   string
			payload any
			is      error
		}{
			"not answered":  {t.Context(), "other", nil, channel.ErrNoHandler},
			"binary":        {t.Context(), "confirm", serializer.Binary([]byte{1}), serializer.ErrPayload},
			"not an object": {t.Context(), "confirm", []int{1}, serializer.ErrPayload},
			"with an id":    {t.Context(), "confirm", map[string]string{"$call": "x"}, serializer.ErrPayload},
			"not encodable": {t.Context(), "confirm", make(chan int), serializer.ErrPayload},
			"canceled":      {gone, "confirm", nil, context.Canceled},
		} {
			if _, err := ch.Call(test.ctx, test.event, test.payload); !errors.Is(err, test.is) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !errors.Is(early, channel.ErrNotJoined) {
			t.Errorf("in the join callback: %v", early)
		}
		begun := time.Now()
		_, err := ch.Call(t.Context(), "confirm", nil)
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != 10*time.Second {
			t.Errorf("without a deadline: %v after %v", err, took)
		}
		c.leave()
		if _, err := ch.Call(t.Context(), "confirm", nil); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestCallAnswersThatDoNotCount sends answers that are late, repeated, malformed or for no call.
func TestCallAnswersThatDoNotCount(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := answering(t, `["confirm"]`)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		late := c.start(ctx, "confirm", nil)
		time.Sleep(2 * time.Second) // virtual: the call times out
		wantResult(t, late, "", context.DeadlineExceeded)
		next := c.start(t.Context(), "confirm", nil)
		ids := c.asked()
		c.answer(ids[0], "ok", `"late"`)
		for _, bad := range []string{
			`{}`, `[]`, `"x"`, `{"$call":7}`, `{"$call":"zz zz","status":"ok"}`, `{"$call":"","status":"ok"}`,
			`{"$call":"-1","status":"ok"}`, `{"$call":"12345678901234567890","status":"ok"}`, `null`,
		} {
			c.push("$reply", bad)
		}
		c.pushBinary("$reply:", nil)
		c.pushBinary("$reply", []byte(ids[1]))
		synctest.Wait()
		select {
		case r := <-next:
			t.Errorf("an answer to no call ended one: %+v", r)
		default:
		}
		c.answer(ids[1], "ok", `"first"`)
		c.answer(ids[1], "ok", `"second"`)
		wantResult(t, next, `"first"`, nil)
		if got := c.take(); len(got) != 0 || c.log() != "" {
			t.Errorf("answers: %s; log: %s", got, c.log())
		}
		without := c.start(t.Context(), "confirm", nil)
		c.push("$reply", `{"$call":"`+c.asked()[0]+`"}`)
		synctest.Wait()
		if r := <-without; r.err == nil {
			t.Errorf("an answer without a status is ok: %s", r.answer.Bytes())
		}
		c.leave()
	})
}

// TestCallOfAnotherChannel checks that a client which joins again does not answer the calls of its
// old channel on the new one.
func TestCallOfAnotherChannel(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		a, b := answering(t, `["confirm"]`), answering(t, `["confirm"]`)
		first := a.start(t.Context(), "confirm", nil)
		second := b.start(t.Context(), "confirm", nil)
		b.answer(a.asked()[0], "ok", `"of another"`)
		synctest.Wait()
		select {
		case r := <-second:
			t.Errorf("the answer to a call of another channel: %+v", r)
		case r := <-first:
			t.Errorf("the answer on another channel: %+v", r)
		default:
		}
		b.answer(b.asked()[0], "ok", `1`)
		wantResult(t, second, "1", nil)
		a.leave()
		wantResult(t, first, "", channel.ErrClosed)
		b.leave()
	})
}

func TestCallbackWaitsInCall(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := answering(t, `["confirm"]`, channel.On("buy",
			func(_ *nobody, ctx context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
				answer, err := c.Call(ctx, "confirm", nil)
				if err != nil {
					return push.NoReply, err
				}
				return push.OK(answer), nil
			}))
		c.asked()
		c.push("buy", `{}`)
		c.answer(c.asked()[0], "ok", `{"yes":true}`)
		got := c.messages()
		if len(got) != 1 || got[0].payload != `{"yes":true}` || got[0].status != "ok" {
			t.Errorf("%+v", got)
		}
		c.push("buy", `{}`)
		c.answer(c.asked()[0], "error", `{"reason":"too dear"}`) // the client's refusal becomes the reply
		if got := c.messages(); len(got) != 1 || got[0].payload != `{"reason":"too dear"}` || got[0].status != "error" {
			t.Errorf("%+v", got)
		}
		c.leave()
	})
}

func TestTooManyCalls(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := answering(t, `["confirm"]`)
		c.asked()
		var open []<-chan result
		for range 64 {
			open = append(open, c.start(t.Context(), "confirm", nil))
		}
		ids := c.asked()
		wantResult(t, c.start(t.Context(), "confirm", nil), "", channel.ErrTooManyCalls)
		c.answer(ids[63], "ok", `1`)
		wantResult(t, open[63], "1", nil)
		open[63] = c.start(t.Context(), "confirm", nil)
		c.leave()
		for _, done := range open {
			wantResult(t, done, "", channel.ErrClosed)
		}
	})
}

// TestEndOfChannelEndsCalls ends a channel in each way while a callback waits in Call, and another
// goroutine, too.
func TestEndOfChannelEndsCalls(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *caller, h *channel.Handler){
		"connection": func(c *caller, _ *channel.Handler) { c.d.Close(errors.New("over")) },
		"cancel":     func(c *caller, _ *channel.Handler) { c.d.Cancel(errors.New("over")) },
		"revoke":     func(c *caller, _ *channel.Handler) { c.d.Revoke("gone") },
		"leave": func(c *caller, _ *channel.Handler) {
			c.d.Leave(serializer.Message{Ref: `"8"`}, time.Second)
		},
		"replaced": func(c *caller, h *channel.Handler) {
			before := c.d
			c.d = join(c, channelhost.Join{Handler: h, Before: before})
		},
		"killed": func(c *caller, _ *channel.Handler) {
			large := serializer.Message{Event: "large", Payload: serializer.Binary(make([]byte, 600<<10))}
			for receive(c.d, large, time.Second) && !c.d.HasEnded() { // until the mailbox is full
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				inCallback := make(chan result, 1)
				c := answering(t, `["confirm"]`, channel.On("buy",
					func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
						answer, err := c.Call(context.Background(), "confirm", nil)
						inCallback <- result{answer, err}
						return push.NoReply, nil
					}))
				c.asked()
				c.push("buy", `{}`)
				outside := c.start(t.Context(), "confirm", nil)
				if n := len(c.asked()); n != 2 {
					t.Fatal(n, "calls")
				}
				begun := time.Now()
				end(c, plainRoom())
				wantResult(t, inCallback, "", channel.ErrClosed)
				wantResult(t, outside, "", channel.ErrClosed)
				if took := time.Since(begun); took > time.Second && name != "killed" {
					t.Errorf("after %v", took)
				}
				c.leave()
			})
		})
	}
}

func TestCallsList(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := answering(t, `["a"]`)
		c.asked()
		calls := func(event string) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := c.ch.Call(ctx, event, nil)
			return err
		}
		many := make([]string, 33)
		for i := range many {
			many[i] = fmt.Sprint("e", i)
		}
		list := func(events []string) string { raw, _ := json.Marshal(events); return string(raw) }
		for _, test := range []struct{ push, status, reply string }{
			{`{"calls":["b","c"]}`, "ok", `{}`},
			{`{"calls":` + list(many[:32]) + `}`, "ok", `{}`},
			{`{"calls":` + list(many) + `}`, "error", `{"reason":"too many calls"}`},
			{`{"calls":["` + strings.Repeat("x", 1025) + `"]}`, "error", `{"reason":"too many calls"}`},
			{`{"calls":"b"}`, "error", `{"reason":"invalid calls"}`},
			{`{"calls":null}`, "error", `{"reason":"invalid calls"}`},
			{`{"calls":[1]}`, "error", `{"reason":"invalid calls"}`},
			{`{}`, "error", `{"reason":"invalid calls"}`},
			{`[]`, "error", `{"reason":"invalid calls"}`},
		} {
			c.push("$calls", test.push)
			if got := c.messages(); len(got) != 1 || got[0].status != test.status || got[0].payload != test.reply {
				t.Errorf("%.40s: %+v", test.push, got)
			}
		}
		if err := calls("a"); !errors.Is(err, channel.ErrNoHandler) {
			t.Errorf("an event that is not in the list any more: %v", err)
		}
		if err := calls("e31"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an event of the list: %v", err)
		}
		c.push("$calls", `{"calls":[]}`)
		synctest.Wait()
		if err := calls("e31"); !errors.Is(err, channel.ErrNoHandler) {
			t.Errorf("an empty list: %v", err)
		}
		c.leave()

		late := newClient(t, pubsub.New(nil)) // its join has no list
		var ch *channel.Channel
		h := channel.Define(
			func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
				ch = c
				return nil, nil
			})
		late.join(h, `{}`)
		synctest.Wait()
		if _, err := ch.Call(t.Context(), "a", nil); !errors.Is(err, channel.ErrNoHandler) {
			t.Error(err)
		}
		late.push("$reply", `{"$call":"1","status":"ok"}`)
		late.push("$calls", `{"calls":["a"]}`)
		synctest.Wait()
		if _, err := ch.Call(t.Context(), "a", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		late.leave()

		for ask, reason := range map[string]string{
			list(many): "too many calls", `7`: "invalid calls", `["a",2]`: "invalid calls",
		} {
			refused := newClient(t, pubsub.New(nil))
			refused.join(plainRoom(), `{"$calls":`+ask+`}`)
			if got := refused.messages(); len(got) != 1 || got[0].payload != `{"reason":"`+reason+`"}` {
				t.Errorf("join with %.20s: %+v", ask, got)
			}
			refused.leave()
		}
	})
}

// TestCallsAtRandom makes calls at random, answers them at random, late, twice and wrongly, and
// ends the channel at some time. Each call ends once, with the answer to its own question or one of
// the documented errors.
func TestCallsAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		bubble(t, func(t *testing.T) { callsAtRandom(t, rand.New(rand.NewPCG(seed, 5))) })
	}
}

func callsAtRandom(t *testing.T, r *rand.Rand) {
	c := answering(t, `["ask"]`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ends := make(map[int]int)
	type question struct {
		ID string `json:"$call"`
		N  int
	}
	var asked []question
	for n := range 60 {
		timeout := time.Duration(1+r.IntN(30)) * 100 * time.Millisecond
		after := time.Duration(r.IntN(20)) * 100 * time.Millisecond
		wg.Go(func() {
			time.Sleep(after) // virtual
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			answer, err := c.ch.Call(ctx, "ask", map[string]int{"N": n})
			var refused *push.Error
			switch {
			case err == nil && string(answer.Bytes()) == fmt.Sprint(n):
			case errors.As(err, &refused) && refused.Reason() == fmt.Sprint(n):
			case errors.Is(err, context.DeadlineExceeded), errors.Is(err, channel.ErrClosed):
			default:
				t.Errorf("call %d ended with %s, %v", n, answer.Bytes(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			ends[n]++
		})
	}
	end := 10 + r.IntN(40)
	for range end {
		time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond) // virtual
		for _, m := range c.messages() {
			var q question
			if json.Unmarshal([]byte(m.payload), &q) == nil && q.ID != "" {
				asked = append(asked, q)
			}
		}
		for range r.IntN(6) {
			if len(asked) == 0 {
				break
			}
			q := asked[r.IntN(len(asked))] // perhaps answered before, or late
			switch r.IntN(5) {
			case 0:
				c.answer(q.ID, "error", fmt.Sprintf(`{"reason":"%d"}`, q.N))
			case 1:
				c.answer(fmt.Sprint(r.Uint64()), "ok", `"no question"`)
			default:
				c.answer(q.ID, "ok", fmt.Sprint(q.N))
			}
		}
	}
	c.leave()
	wg.Wait()
	for n := range 60 {
		if ends[n] != 1 {
			t.Errorf("call %d ended %d times", n, ends[n])
		}
	}
}

// answerer is a connection whose client answers each call at once.
type answerer struct {
	*sink
	d       channelhost.Channel
	answers bool
}

func (a *answerer) Send(f *serializer.Frame, how transport.Delivery) error {
	if a.answers {
		_, id, _ := bytes.Cut(f.Data, []byte(`"$call":"`))
		id, _, _ = bytes.Cut(id, []byte(`"`))
		receive(a.d, serializer.Message{Event: "$reply:" + string(id), Payload: serializer.Binary(nil)}, time.Second)
	}
	return a.sink.Send(f, how)
}

// startAnswerer returns a channel whose client answers calls of "ask", and a function that ends it.
func startAnswerer(t testing.TB) (s *answerer, ch *channel.Channel, end func()) {
	t.Helper()
	h := channel.Define(func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
		ch = c
		return nil, nil
	})
	s = &answerer{sink: newSink(pubsub.New(nil))}
	params, err := serializer.Value(map[string][]string{"$calls": {"ask"}}).Encoded()
	if err != nil {
		t.Fatal(err)
	}
	s.d = channelhost.Start(s, channelhost.Join{
		Handler: h, MaxMailbox: 1 << 20, Workers: new(mailbox.Workers),
		Message: serializer.Message{
			JoinRef: `"1"`, Ref: `"1"`, Topic: "room:1", Event: serializer.EventJoin, Payload: params,
		},
	})
	<-s.answered
	return s, ch, func() {
		s.d.Close(context.Canceled)
		s.d.Wait()
	}
}

// BenchmarkCall compares a call, with its answer, with a push of the server.
func BenchmarkCall(b *testing.B) {
	s, ch, end := startAnswerer(b)
	defer end()
	payload := map[string]int{"n": 1}
	b.Run("push", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := ch.Push("ask", payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("call", func(b *testing.B) {
		b.ReportAllocs()
		s.answers = true
		for b.Loop() {
			if _, err := ch.Call(context.Background(), "ask", payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}
