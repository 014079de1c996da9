package channel_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
)

// person is a carrier of a client with an identity.
type person struct {
	*carrier
	subject, client, connection string
}

func (p *person) Identity() (subject, client, connection string) {
	return p.subject, p.client, p.connection
}

// onceBench starts the channel of a client, whose context ends with the connection.
func onceBench(t *testing.T, h *channel.Handler, p person) *bench {
	p.carrier = newCarrier(pubsub.New(nil))
	b := &bench{carrier: p.carrier, t: t}
	b.d = join(&p, channelhost.Join{Handler: h})
	t.Cleanup(func() { b.d.Cancel(errors.New("the test is over")) }) // nothing goes on after a failure
	b.want(joinedOK)
	return b
}

// end ends the connection.
func (b *bench) end() {
	b.d.Close(errors.New("cut"))
	b.awaitEnd()
	b.take()
}

// awaitEnd waits for the end of the channel, for a minute at most.
func (b *bench) awaitEnd() {
	b.t.Helper()
	ended := make(chan struct{})
	go func() { b.d.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute): // virtual
		b.t.Fatal("the channel does not end")
	}
}

func object(text string) (p serializer.Payload) {
	_ = p.UnmarshalJSON([]byte(text))
	return p
}

// counted is a handler whose event "add" counts, and replies with the count and the text.
func counted(n *atomic.Int64, cfg push.OnceConfig, options ...channel.Option[room]) *channel.Handler {
	return channel.Define((*room).join, append(options, channel.Once[room](cfg),
		on("add", func(c *channel.Channel, in note) (push.Reply, error) {
			return push.OK(note{fmt.Sprint(n.Add(1), in.Text, c.PushID())}), nil
		}),
	)...)
}

var (
	annPhone = person{subject: "ann", client: "phone"}
	annTab   = person{subject: "ann", client: "tab"}
	bobPhone = person{subject: "bob", client: "phone"}
)

func TestOnceRepeatsReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		h := counted(&n, push.OnceConfig{})
		b := onceBench(t, h, annPhone)
		b.push("2", "add", object(`{"$id":"a","text":"x"}`))
		b.want(reply("2", "ok", `{"text":"1xa"}`))
		b.push("3", "add", object(`{"text":"y","$id":"a"}`)) // the payload is not compared
		b.want(reply("3", "ok", `{"text":"1xa"}`))
		b.push("4", "add", object(`{"text":"x"}`))
		b.want(reply("4", "ok", `{"text":"2x"}`))
		b.push("5", "add", object(`{"$id":"b","text":"x"}`))
		b.want(reply("5", "ok", `{"text":"3xb"}`))
		b.end()
		b = onceBench(t, h, annPhone) // a new connection of the client
		b.push("2", "add", object(`{"$id":"a","text":"x"}`))
		b.want(reply("2", "ok", `{"text":"1xa"}`))
		b.end()
	})
}

func TestOnceKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var h *channel.Handler
		h = channel.Define((*room).join, channel.Once[room](push.OnceConfig{}),
			onAny(func(*channel.Channel, string, serializer.Payload) (push.Reply, error) { return push.OK(n.Add(1)), nil }))
		add := func(p person, topic, event string, want int) {
			t.Helper()
			p.carrier = newCarrier(pubsub.New(nil))
			d := join(&p, channelhost.Join{Handler: h, Message: serializer.Message{
				JoinRef: "1", Ref: "1", Topic: topic, Event: serializer.EventJoin,
			}})
			receive(d, serializer.Message{Ref: "2", Topic: topic, Event: event, Payload: object(`{"$id":"a"}`)}, 0)
			frames := p.take()
			if got := frames[len(frames)-1]; !strings.HasSuffix(got, fmt.Sprintf(`"response":%d}]`, want)) {
				t.Errorf("%+v %s %s: got %s, want %d", p, topic, event, got, want)
			}
			d.Close(errors.New("cut"))
			d.Wait()
		}
		for range 2 {
			n.Store(0)
			h = channel.Define((*room).join, channel.Once[room](push.OnceConfig{}),
				onAny(func(*channel.Channel, string, serializer.Payload) (push.Reply, error) { return push.OK(n.Add(1)), nil }))
			add(annPhone, "t", "e", 1)
			add(annTab, "t", "e", 2)
			add(bobPhone, "t", "e", 3)
			add(annPhone, "t2", "e", 4)
			add(annPhone, "t", "e2", 5)
			add(person{client: "phone"}, "t", "e", 6)
			add(person{subject: "ann"}, "t", "e", 7)
			add(person{subject: "annp", client: "hone"}, "t", "e", 8)
			add(person{connection: "c1"}, "t", "e", 9)
			add(person{connection: "c2"}, "t", "e", 10)
			add(person{subject: "ann", connection: "c3"}, "t", "e", 7)
			add(person{connection: "c1"}, "t", "e", 9)
			add(annPhone, "t", "e", 1)
		}
	})
}

func TestOnceRepeatsOtherReplies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		text := func() string { n++; return fmt.Sprint(n) }
		large := strings.Repeat("x", 64<<10)
		b := onceBench(t, channel.Define((*room).join,
			channel.Once[room](push.OnceConfig{}, "no", "reason", "maybe", "invalid", "bytes", "large", "later", "both"),
			on("no", func(*channel.Channel, note) (push.Reply, error) {
				return push.NoReply, fmt.Errorf("because: %w", push.Reject(text()))
			}),
			on("reason", func(*channel.Channel, note) (push.Reply, error) { return push.NoReply, push.Reason(text()) }),
			on("maybe", func(*channel.Channel, note) (push.Reply, error) { return push.Reply{Status: "m" + text()}, nil }),
			on("invalid", func(*channel.Channel, note) (push.Reply, error) { return push.OK(nil), nil }),
			on("bytes", func(*channel.Channel, note) (push.Reply, error) {
				return push.OK(serializer.Binary([]byte(text()))), nil
			}),
			on("large", func(*channel.Channel, note) (push.Reply, error) { text(); return push.OK(note{large}), nil }),
			on("later", func(c *channel.Channel, _ note) (push.Reply, error) {
				ref, answer := c.Ref(), text()
				time.AfterFunc(time.Minute, func() { _ = c.Reply(ref, push.OK(note{answer})) })
				return push.NoReply, nil
			}),
			on("both", func(c *channel.Channel, _ note) (push.Reply, error) {
				return push.NoReply, c.Reply(c.Ref(), push.OK(note{text()}))
			}),
			on("free", func(c *channel.Channel, n note) (push.Reply, error) {
				return push.OK(note{text() + n.Text + c.PushID()}), nil
			}),
		), annPhone)
		ref := 1
		again := func(event, payload, first, second string) {
			t.Helper()
			for _, want := range []string{first, second} {
				ref++
				b.push(fmt.Sprint(ref), event, object(payload))
				if event == "later" {
					time.Sleep(time.Minute) // virtual
				}
				b.want(fmt.Sprintf(want, ref))
			}
		}
		same := func(event, payload, want string) { again(event, payload, want, want) }
		same("no", `{"$id":"1"}`, reply("%d", "error", `{"reason":"1"}`))
		same("reason", `{"$id":"1"}`, reply("%d", "error", `{"reason":"2"}`))
		same("maybe", `{"$id":"1"}`, reply("%d", "m3", `{}`))
		same("invalid", `{"$id":"1","text":5}`, reply("%d", "error", `{"reason":"invalid payload"}`))
		same("bytes", `{"$id":"1"}`, "\x01\x01\x02\x06\x021%droom:1ok4")
		again("large", `{"$id":"1"}`, reply("%d", "ok", `{"text":"`+large+`"}`), reply("%d", "ok", `{"$once":"done"}`))
		same("later", `{"$id":"1"}`, reply("%d", "ok", `{"text":"6"}`))
		same("both", `{"$id":"1"}`, reply("%d", "ok", `{"text":"7"}`))
		again("free", `{"$id":"1","text":"x"}`, reply("%d", "ok", `{"text":"8x"}`), reply("%d", "ok", `{"text":"9x"}`))
		for _, id := range []string{`""`, `5`, `"a b"`, `"` + strings.Repeat("x", 65) + `"`, `null`, `{}`} {
			same("no", `{"$id":`+id+`}`, reply("%d", "error", `{"reason":"invalid id"}`))
		}
		b.end()
	})
}

// TestOnceAnswersWhatWaits has a push whose reply comes later, and the same push from the same and
// from another connection.
func TestOnceAnswersWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		var later func()
		h := channel.Define((*room).join, channel.Once[room](push.OnceConfig{}, "later"),
			on("later", func(c *channel.Channel, _ note) (push.Reply, error) {
				ref, run := c.Ref(), fmt.Sprint(runs)
				runs++
				later = func() { _ = c.Reply(ref, push.OK(note{run})) }
				return push.NoReply, nil
			}),
			on("now", func(*channel.Channel, note) (push.Reply, error) { return push.OK(nil), nil }),
		)
		first, second := onceBench(t, h, annPhone), onceBench(t, h, annPhone)
		first.push("2", "later", object(`{"$id":"a"}`))
		first.push("3", "later", object(`{"$id":"a"}`))
		first.push("4", "now", nil)
		second.push("2", "later", object(`{"$id":"a"}`))
		second.push("3", "now", nil)
		first.want(reply("4", "ok", "{}")) // the mailbox is free
		second.want(reply("3", "ok", "{}"))
		time.Sleep(5 * time.Minute) // virtual: the lease is renewed
		first.want()
		second.want()
		later()
		synctest.Wait()
		both := first.take()
		slices.Sort(both) // no order is promised
		if want := []string{reply("2", "ok", `{"text":"0"}`), reply("3", "ok", `{"text":"0"}`)}; !slices.Equal(both, want) {
			t.Errorf("got %q, want %q", both, want)
		}
		second.want(reply("2", "ok", `{"text":"0"}`))

		first.push("5", "later", object(`{"$id":"b"}`))
		first.take()
		second.push("5", "later", object(`{"$id":"b"}`))
		second.take()
		first.end() // without a reply: the other one is handled
		second.want()
		if runs != 3 {
			t.Fatalf("%d runs, want 3", runs)
		}
		later()
		second.want(reply("5", "ok", `{"text":"2"}`))

		second.push("6", "later", object(`{"$id":"c"}`))
		for ref := range 20 { // 16 may wait
			second.push(fmt.Sprint(100+ref), "later", object(`{"$id":"c"}`))
		}
		var refused []string
		for ref := 16; ref < 20; ref++ {
			refused = append(refused, reply(fmt.Sprint(100+ref), "error", `{"reason":"too many ids"}`))
		}
		second.want(refused...)
		second.end()
	})
}

// TestOnceReleases checks that a push whose callback did not answer is handled again.
func TestOnceReleases(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"panic without a ref": func() error { panic("no") },
		"panic":               func() error { panic("no") },
		"crash":               func() error { return errors.New("no") },
		"goexit":              func() error { runtime.Goexit(); return nil },
		"stop":                func() error { return channel.ErrStop },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				runs := 0
				h := channel.Define((*room).join, channel.Once[room](push.OnceConfig{}),
					on("add", func(*channel.Channel, note) (push.Reply, error) {
						if runs++; runs == 1 {
							return push.NoReply, fail()
						}
						return push.OK(nil), nil
					}))
				b := onceBench(t, h, annPhone)
				ref := "2"
				if strings.HasSuffix(name, "without a ref") {
					ref = ""
				}
				b.push(ref, "add", object(`{"$id":"a"}`))
				if frames := strings.Join(b.take(), ""); strings.Contains(frames, "phx_reply") {
					t.Fatal(frames)
				}
				b.awaitEnd()
				b = onceBench(t, h, annPhone)
				b.push("2", "add", object(`{"$id":"a"}`))
				b.want(reply("2", "ok", "{}"))
				b.end()
				if runs != 2 {
					t.Fatalf("%d runs", runs)
				}
			})
		})
	}
}

// TestOnceOutlivesConnection ends the connection while the callback runs, which returns later.
func TestOnceOutlivesConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runs, hold := 0, make(chan struct{})
		h := channel.Define((*room).join, channel.Once[room](push.OnceConfig{}),
			on("add", func(*channel.Channel, note) (push.Reply, error) {
				runs++
				<-hold
				return push.OK(note{fmt.Sprint(runs)}), nil
			}))
		first, second := onceBench(t, h, annPhone), onceBench(t, h, annPhone)
		first.push("2", "add", object(`{"$id":"a"}`))
		synctest.Wait()
		first.d.Close(errors.New("cut"))
		second.push("2", "add", object(`{"$id":"a"}`))
		time.Sleep(time.Minute) // virtual
		second.want()
		close(hold)
		first.awaitEnd()
		second.want(reply("2", "ok", `{"text":"1"}`))
		second.end()
		if runs != 1 {
			t.Fatalf("%d runs", runs)
		}
	})
}

func TestOnceWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		b := onceBench(t, counted(&n, push.OnceConfig{Window: time.Hour}), annPhone)
		for i := range 4 { // the window begins anew
			b.push(fmt.Sprint(i), "add", object(`{"$id":"a"}`))
			b.want(reply(fmt.Sprint(i), "ok", `{"text":"1a"}`))
			time.Sleep(50 * time.Minute) // virtual
		}
		time.Sleep(time.Hour) // virtual
		b.push("9", "add", object(`{"$id":"a"}`))
		b.want(reply("9", "ok", `{"text":"2a"}`))
		b.end()
	})
}

// TestOnceBehindMiddleware checks that middleware sees every push, with its id, and that its own
// replies are not recorded.
func TestOnceBehindMiddleware(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		calls, open := 0, false
		b := onceBench(t, counted(&n, push.OnceConfig{}, channel.Use[room](func(next channel.Func) channel.Func {
			return func(ctx context.Context, c *channel.Channel, event string, p serializer.Payload) (push.Reply, error) {
				calls++
				if _, _, found := p.Cut("$id"); !found {
					t.Error("no id")
				}
				if !open {
					return push.NoReply, push.Reject("closed")
				}
				return next(ctx, c, event, p)
			}
		})), annPhone)
		b.push("2", "add", object(`{"$id":"a"}`))
		b.want(reply("2", "error", `{"reason":"closed"}`))
		open = true
		b.push("3", "add", object(`{"$id":"a"}`))
		b.want(reply("3", "ok", `{"text":"1a"}`))
		open = false
		b.push("4", "add", object(`{"$id":"a"}`))
		b.want(reply("4", "error", `{"reason":"closed"}`))
		open = true
		b.push("5", "add", object(`{"$id":"a"}`))
		b.want(reply("5", "ok", `{"text":"1a"}`))
		b.end()
		if calls != 4 {
			t.Fatalf("%d calls of the middleware", calls)
		}
	})
}

// storeFunc is a store that calls a function before each operation.
type storeFunc struct {
	push.OnceStore
	before func(op string) error
}

func (s *storeFunc) Begin(
	ctx context.Context, key, holder string, lease time.Duration,
) (mine bool, reply []byte, err error) {
	if err := s.before("begin"); err != nil {
		return false, nil, err
	}
	return s.OnceStore.Begin(ctx, key, holder, lease)
}

func (s *storeFunc) Finish(
	ctx context.Context, key, holder string, reply []byte, window time.Duration,
) (counts []byte, err error) {
	if err := s.before("finish"); err != nil {
		return nil, err
	}
	return s.OnceStore.Finish(ctx, key, holder, reply, window)
}

// TestOnceFinishesFirst checks that a reply is recorded before it is sent.
func TestOnceFinishesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		finished := 0
		store := &storeFunc{push.NewOnceMemory(0), func(op string) error {
			if op == "finish" {
				finished++
				b.mu.Lock()
				defer b.mu.Unlock()
				if len(b.frames) > 0 {
					t.Errorf("sent before it was recorded: %q", b.frames)
				}
			}
			return nil
		}}
		var later func()
		b = onceBench(t, channel.Define((*room).join, channel.Once[room](push.OnceConfig{Store: store}),
			on("ok", func(*channel.Channel, note) (push.Reply, error) { return push.OK(nil), nil }),
			on("no", func(*channel.Channel, note) (push.Reply, error) { return push.NoReply, push.Reject("no") }),
			on("later", func(c *channel.Channel, _ note) (push.Reply, error) {
				ref := c.Ref()
				later = func() { _ = c.Reply(ref, push.OK(nil)) }
				return push.NoReply, nil
			})), annPhone)
		b.push("2", "ok", object(`{"$id":"a"}`))
		b.want(reply("2", "ok", "{}"))
		b.push("3", "no", object(`{"$id":"a"}`))
		b.want(reply("3", "error", `{"reason":"no"}`))
		b.push("4", "later", object(`{"$id":"a"}`))
		b.want()
		later()
		b.want(reply("4", "ok", "{}"))
		b.end()
		if finished != 3 {
			t.Fatalf("%d replies were recorded", finished)
		}
	})
}

func TestOnceStoreFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		fails := "begin"
		b := onceBench(t, counted(&n, push.OnceConfig{Store: &storeFunc{push.NewOnceMemory(0), func(op string) error {
			switch {
			case op == fails:
				return errors.New("disk full")
			case fails == "full":
				return push.ErrTooManyIDs
			}
			return nil
		}}}), annPhone)
		b.push("2", "add", object(`{"$id":"a"}`))
		b.want(reply("2", "error", `{"reason":"unavailable"}`))
		fails = "finish"
		b.push("3", "add", object(`{"$id":"a"}`))
		b.want(reply("3", "ok", `{"text":"1a"}`))
		if !strings.Contains(b.log(), "disk full") {
			t.Error("not logged")
		}
		fails = "full"
		b.push("4", "add", object(`{"$id":"b"}`))
		b.want(reply("4", "error", `{"reason":"too many ids"}`))
		b.end()
	})
}

// TestOnceOnAnotherNode has a run of a node that answers later, and one of a node that has died.
func TestOnceOnAnotherNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		store := push.NewOnceMemory(0)
		var keys []string
		h := counted(&n, push.OnceConfig{Store: &keyStore{store, &keys}})
		b := onceBench(t, h, annPhone)
		b.push("2", "add", object(`{"$id":"a"}`))
		b.push("3", "add", object(`{"$id":"b"}`))
		b.take()
		a, gone := keys[0], keys[1]
		store = push.NewOnceMemory(0)
		h = counted(&n, push.OnceConfig{Store: store})
		b.end()
		b = onceBench(t, h, annPhone)
		for _, key := range []string{a, gone} {
			if mine, _, err := store.Begin(t.Context(), key, "another node", 30*time.Second); !mine || err != nil {
				t.Fatal(mine, err)
			}
		}
		b.push("2", "add", object(`{"$id":"a"}`))
		b.push("3", "add", object(`{"$id":"b"}`))
		time.Sleep(3 * time.Second) // virtual
		b.want()
		body := append([]byte("j\x02ok"), `{"text":"theirs"}`...)
		if _, err := store.Finish(t.Context(), a, "another node", body, time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // virtual
		b.want(reply("2", "ok", `{"text":"theirs"}`))
		time.Sleep(30 * time.Second) // virtual
		b.want(reply("3", "ok", `{"text":"3b"}`))
		b.end()
	})
}

// keyStore notes the keys.
type keyStore struct {
	push.OnceStore
	keys *[]string
}

func (s *keyStore) Begin(
	ctx context.Context, key, holder string, lease time.Duration,
) (mine bool, reply []byte, err error) {
	*s.keys = append(*s.keys, key)
	return s.OnceStore.Begin(ctx, key, holder, lease)
}

func TestOnceTellsWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			once          bool
			params, reply string
		}{
			{true, `{"$once":{},"a":1}`, `{"$once":{"window":3600000},"params":{"a":1}}`},
			{true, `{"a":1}`, `{"params":{"a":1}}`},
			{false, `{"a":1,"$once":{}}`, `{"params":{"a":1}}`},
			{true, `{"$once":{},"text":1}`, `1`},
		} {
			var options []channel.Option[room]
			if test.once {
				options = append(options, channel.Once[room](push.OnceConfig{Window: time.Hour}))
			}
			h := channel.Define(func(_ *room, _ context.Context, _ *channel.Channel, p serializer.Payload) (any, error) {
				if strings.Contains(string(p.Bytes()), "text") {
					return 1, nil
				}
				return map[string]any{"params": p}, nil
			}, options...)
			up := newCarrier(pubsub.New(nil))
			m := joinMessage("1")
			m.Payload = object(test.params)
			d := join(up, channelhost.Join{Handler: h, Message: m})
			if got, want := strings.Join(up.take(), ""), reply("1", "ok", test.reply); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			d.Close(errors.New("cut"))
			d.Wait()
		}
	})
}

func TestOnceForUnknownEventPanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if v := recover(); v == nil {
			t.Error("no panic")
		}
	}()
	channel.Define((*room).join, channel.Once[room](push.OnceConfig{}, "nothing"))
}

func BenchmarkOnceWithoutID(b *testing.B) {
	var n atomic.Int64
	h := channel.OnceFunc(push.OnceConfig{}, func(
		context.Context, *channel.Channel, string, serializer.Payload,
	) (push.Reply, error) {
		n.Add(1)
		return push.NoReply, nil
	})
	p := object(`{"text":"a message of the usual length, which is about a hundred bytes with its members","user":"ann"}`)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = h(b.Context(), nil, "add", p)
	}
}
