package channel_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// panickingJSON panics when it is encoded, which is after the callback has returned it.
type panickingJSON struct{}

func (panickingJSON) MarshalJSON() ([]byte, error) { panic("secret") }

// TestResultsThatPanic checks that errors and payloads whose methods panic end the channel and not
// the process.
func TestResultsThatPanic(t *testing.T) {
	t.Parallel()
	var typed *push.Error
	var path *fs.PathError
	for name, test := range map[string]struct {
		reply push.Reply
		err   error
	}{
		"reply":                {push.OK(panickingJSON{}), nil},
		"rejection":            {push.NoReply, push.Reject(panickingJSON{})},
		"nil *push.Error":      {push.NoReply, typed},
		"nil *fs.PathError":    {push.NoReply, path},
		"reply and then error": {push.OK(nil), path},
	} {
		t.Run("event, "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var reasons []error
				b := start(t, channel.Define((*room).join, ends(&reasons),
					on("end", func(*channel.Channel, note) (push.Reply, error) { return test.reply, test.err })))
				b.want(joinedOK)
				b.push("2", "end", nil)
				got := b.take()
				if len(got) == 0 || got[len(got)-1] != crashed || len(reasons) != 1 {
					t.Errorf("got %q, terminated with %v", got, reasons)
				}
				if b.ps.Subscribers("room:1") != 0 {
					t.Error("still subscribed")
				}
				b.d.Close(errors.New("over"))
				b.d.Wait()
			})
		})
		t.Run("join, "+name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := start(t, channel.Define(func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
					return test.reply.Payload, test.err
				}))
				b.want(reply("1", "error", `{"reason":"join crashed"}`))
				if b.ps.Subscribers("room:1") != 0 {
					t.Error("still subscribed")
				}
				b.d.Close(errors.New("over"))
				b.d.Wait()
			})
		})
	}
}

// TestStuckChannelGetsNoBroadcasts checks that a replaced channel whose callback does not return
// sends no broadcasts, although it is still subscribed.
func TestStuckChannelGetsNoBroadcasts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		h := channel.Define((*room).join, on("wait", func(*channel.Channel, note) (push.Reply, error) {
			<-gate
			return push.NoReply, nil
		}))
		b := start(t, h)
		b.push("2", "wait", nil)
		synctest.Wait()
		b.join(h, "4", b.d)
		time.Sleep(5 * time.Second)
		b.take()
		if err := b.ps.Broadcast(t.Context(), "room:1", "news", nil); err != nil {
			t.Fatal(err)
		}
		b.want(`[null,null,"room:1","news",{}]`)
		close(gate)
		b.d.Close(errors.New("over"))
	})
}

// TestCancelledSubscriptionsAreReleased checks that a channel does not keep cancelled
// subscriptions.
func TestCancelledSubscriptionsAreReleased(t *testing.T) { // not in parallel: it measures the heap
	synctest.Test(t, func(t *testing.T) {
		var ch *channel.Channel
		b := start(t, channel.Define(func(_ *room, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			ch = c
			return nil, nil
		}))
		b.take()
		allocated := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := allocated()
		for range 20000 {
			ch.Subscribe("other")()
		}
		if after := allocated(); after > before+1<<20 {
			t.Errorf("%d bytes more", after-before)
		}
		b.d.Close(errors.New("over"))
		b.d.Wait()
	})
}

// TestDuplicateJoinThatExits checks that the phx_close of the replaced channel is sent even if the
// new join ends its goroutine.
func TestDuplicateJoinThatExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t, channel.Define((*room).join))
		b.want(joinedOK)
		b.join(channel.Define(func(*room, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			runtime.Goexit()
			return nil, nil
		}), "4", b.d)
		b.want(`["4","4","room:1","phx_reply",{"status":"error","response":{"reason":"join crashed"}}]`, closed)
	})
}

// TestTerminateThatExits checks that a Terminate that ends its goroutine is called once, and that
// the channel ends completely.
func TestTerminateThatExits(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]struct {
		err   error
		frame string
	}{"stop": {channel.ErrStop, closed}, "crash": {errors.New("boom"), crashed}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var calls []string
				b := start(t, channel.Define(joinBy(func(_ context.Context, c *channel.Channel) (any, error) {
					c.OnEnd(func() { calls = append(calls, "end") })
					return nil, nil
				}),
					on("end", func(*channel.Channel, note) (push.Reply, error) { return push.NoReply, last.err }),
					channel.Terminate(func(*room, context.Context, *channel.Channel, error) {
						calls = append(calls, "terminate")
						runtime.Goexit()
					})))
				b.want(joinedOK)
				b.push("2", "end", nil)
				b.want(last.frame)
				if !slices.Equal(calls, []string{"terminate", "end"}) {
					t.Errorf("called %q", calls)
				}
				if b.ps.Subscribers("room:1") != 0 {
					t.Error("still subscribed")
				}
			})
		})
	}
}

// TestOverflowDoesNotWaitForTheCarrier checks that a broadcast that ends a channel does not wait
// for the carrier. The carrier may be waiting for a join that waits for the broadcast.
func TestOverflowDoesNotWaitForTheCarrier(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		h := channel.Define(func(_ *room, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
			c.Subscribe("other")
			return nil, nil
		}, on("wait", func(*channel.Channel, note) (push.Reply, error) { <-gate; return push.NoReply, nil }),
			channel.Intercept("news", func(_ *room, _ context.Context, _ *channel.Channel, _ note) error { return nil }))
		for _, topic := range []string{"room:1", "other"} {
			b := start(t, h)
			b.want(joinedOK)
			b.push("2", "wait", nil)
			synctest.Wait()
			done := make(chan struct{})
			b.mu.Lock()
			go func() {
				defer close(done)
				for range 3 {
					if err := b.ps.Broadcast(context.Background(), topic, "news", serializer.Binary(make([]byte, 1<<19))); err != nil {
						t.Error(err)
					}
				}
			}()
			// synctest.Wait would not return while a goroutine waits for the mutex.
			for i := 0; ; i++ {
				select {
				case <-done:
				default:
					if i < 10_000_000 {
						runtime.Gosched()
						continue
					}
					t.Errorf("broadcast to %s waits for the carrier", topic)
				}
				break
			}
			b.mu.Unlock()
			b.want(crashed)
			if receive(b.d, serializer.Message{Event: "x"}, 0) {
				t.Error("a message was accepted after the end")
			}
		}
		close(gate)
	})
}

// TestInvalidPayloadsAreNotLogged checks that an invalid payload is logged by its type only. A
// decoder's error may quote the payload.
func TestInvalidPayloadsAreNotLogged(t *testing.T) {
	t.Parallel()
	type appointment struct {
		At   time.Time `json:"at"`
		Tiny int8      `json:"tiny"`
	}
	for payload, want := range map[string]string{
		`{"at":"2020-secret"}`: "channel_test.appointment",
		`{"tiny":66600}`:       "tiny is a number, not int8",
	} {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, channel.Define((*room).join, channel.On("meet",
				func(*room, context.Context, *channel.Channel, appointment) (push.Reply, error) {
					return push.NoReply, nil
				})))
			b.want(joinedOK)
			b.push("2", "meet", json.RawMessage(payload))
			b.want(reply("2", "error", `{"reason":"invalid payload"}`))
			log := b.log()
			if !strings.Contains(log, want) || strings.Contains(log, "secret") || strings.Contains(log, "66600") {
				t.Errorf("log: %s", log)
			}
			b.d.Close(errors.New("over"))
		})
	}
}
