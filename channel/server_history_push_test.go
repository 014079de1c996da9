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

// pages is the option of handlers whose clients may read pages, unless refuse is true.
func pages(refuse *bool) channel.Option[nobody] {
	return channel.Pages(func(*nobody, context.Context, *channel.Channel) error {
		if *refuse {
			return errors.New("refused")
		}
		return nil
	})
}

// TestPushesOfHistory checks each answer to a push of $history on the wire.
func TestPushesOfHistory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{Count: 5})
		var refuse bool
		h := plainRoom(pages(&refuse))
		c := newClient(t, ps)
		c.joined(h, `{}`)
		broadcastN(t, ps, "msg", 1, 8)
		list := c.messages()
		pos := func(n int) string { return list[n-1].pos }
		other := "0000"
		if strings.HasSuffix(pos(8), "1111") {
			other = "2222"
		}
		answer := func(payload string) string {
			t.Helper()
			c.push("$history", payload)
			got := c.take()
			prefix := fmt.Sprintf(`["1","%d","room:1","phx_reply",{"status":`, c.ref)
			if len(got) != 1 || !strings.HasPrefix(got[0], prefix) {
				t.Fatalf("%s: got %q", payload, got)
			}
			time.Sleep(time.Second) // for the rate
			return strings.TrimSuffix(strings.TrimPrefix(got[0], prefix), "}]")
		}
		failed := func(reason string) string { return fmt.Sprintf(`"error","response":{"reason":%q}`, reason) }
		item := func(n int) string {
			return fmt.Sprintf(`{"event":"msg","payload":{"$pos":%q,"n":%d}}`, pos(n), n)
		}
		for _, tt := range []struct{ payload, want string }{
			{`{"top":true}`, `"ok","response":{"pos":"` + pos(8) + `"}`},
			{`{"before":"` + pos(8) + `","max":2}`, `"ok","response":{"items":[` + item(6) + "," + item(7) + `],"more":true}`},
			{`{"before":"` + pos(5) + `"}`, `"ok","response":{"items":[` + item(4) + `],"more":false}`},
			{`{"before":"` + pos(4) + `"}`, `"ok","response":{"items":[],"more":false}`},
			{`{"before":"` + pos(3) + `"}`, failed("trimmed")},
			{`{"before":"zz-1-1111"}`, failed("trimmed")},
			{`{"before":"` + strings.Split(pos(8), "-")[0] + "-8-" + other + `"}`, failed("trimmed")},
			{`{}`, failed("invalid position")}, {`{"top":false}`, failed("invalid position")},
			{`{"before":null}`, failed("invalid position")}, {`{"before":1}`, failed("invalid position")},
			{`{"before":"x"}`, failed("invalid position")}, {`{"before":""}`, failed("invalid position")},
			{`{"before":"` + pos(8) + `","max":0}`, failed("invalid payload")},
			{`{"before":"` + pos(8) + `","max":"1"}`, failed("invalid payload")},
			{`{"before":"` + pos(8) + `","max":1.5}`, failed("invalid payload")},
			{`{"top":1}`, failed("invalid payload")}, {`[]`, failed("invalid payload")},
		} {
			if got := answer(tt.payload); got != tt.want {
				t.Errorf("%s:\n got %s\nwant %s", tt.payload, got, tt.want)
			}
		}
		refuse = true
		if got := answer(`{"before":"` + pos(8) + `"}`); got != failed("forbidden") {
			t.Errorf("refused: %s", got)
		}
		broadcastN(t, ps, "msg", 9, 9)
		if got := c.messages(); !slices.Equal(numbers(t, got, "msg"), upTo(9, 9)) {
			t.Errorf("the channel got %+v", got)
		}
		c.leave()

		c.joined(plainRoom(), `{}`)
		c.push("$history", `{"before":"`+pos(8)+`"}`)
		if got := c.take(); len(got) != 1 || !strings.Contains(got[0], failed("forbidden")) {
			t.Errorf("without Pages: %q", got)
		}
		c.leave()
		for _, ps := range []*pubsub.PubSub{pubsub.New(nil), recordedTopic(history.Keep{NoGap: true})} {
			c := newClient(t, ps)
			c.join(plainRoom(), `{}`)
			c.take()
			c.push("$history", `{"top":true}`)
			if got := c.take(); len(got) != 1 || !strings.Contains(got[0], failed("off")) {
				t.Errorf("off: %q", got)
			}
			c.leave()
		}
	})
}

// TestPageIsBounded checks the bounds of a page, and what is not in it.
func TestPageIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{Count: 1000, Bytes: 10 << 20})
		refuse := false
		reach := time.Time{}
		h := plainRoom(pages(&refuse),
			channel.Reach(func(*nobody, context.Context, *channel.Channel) time.Time { return reach }),
			channel.Intercept("secret", func(*nobody, context.Context, *channel.Channel, serializer.Payload) error {
				return nil
			}),
		)
		c := newClient(t, ps)
		page := func(ask string) (n int, more bool, first string) {
			t.Helper()
			c.push("$history", ask)
			got := c.messages()
			var p struct {
				Items []struct {
					Event   string
					Payload map[string]any
					Data    []byte
				}
				More bool
			}
			if err := received(t, got[len(got)-1].payload).Decode(&p); err != nil || got[len(got)-1].status != "ok" {
				t.Fatalf("%+v: %v", got[len(got)-1], err)
			}
			for _, item := range p.Items {
				isBinary := string(item.Data) == "\x01\x02"
				if item.Event == "secret" || item.Payload["$pos"] == nil || (item.Event == "bytes") != isBinary {
					t.Errorf("%+v", item)
				}
			}
			if len(p.Items) > 0 {
				first = p.Items[0].Event
			}
			return len(p.Items), p.More, first
		}
		broadcastN(t, ps, "old", 1, 300)
		time.Sleep(time.Minute)
		middle := time.Now()
		broadcastN(t, ps, "secret", 1, 3)
		if err := ps.Broadcast(t.Context(), "room:1", "bytes", serializer.Binary([]byte{1, 2})); err != nil {
			t.Fatal(err)
		}
		broadcastN(t, ps, "msg", 1, 10)
		top := c.joined(h, `{}`)["pos"]
		if n, more, _ := page(fmt.Sprintf(`{"before":%q,"max":1000000}`, top)); n != 100-3 || !more {
			t.Errorf("%d items, %v", n, more)
		}
		if n, more, first := page(fmt.Sprintf(`{"before":%q}`, top)); n != 50-3 || !more || first != "old" {
			t.Errorf("%d items from %s, %v", n, first, more)
		}
		c.leave()
		reach = middle
		c.joined(h, `{}`)
		if n, more, first := page(fmt.Sprintf(`{"before":%q}`, top)); n != 10 || more || first != "bytes" {
			t.Errorf("with Reach: %d items from %s, %v", n, first, more)
		}
		big := strings.Repeat("x", 100<<10)
		for range 5 {
			if err := ps.Broadcast(t.Context(), "room:1", "big", map[string]string{"x": big}); err != nil {
				t.Fatal(err)
			}
		}
		list := c.messages()
		if n, more, _ := page(fmt.Sprintf(`{"before":%q}`, list[4].pos)); n != 2 || !more {
			t.Errorf("%d large items, %v", n, more)
		}
		c.leave()
	})
}

func TestRateOfHistoryPushes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newClient(t, recordedTopic(history.Keep{}))
		c.joined(plainRoom(), `{}`)
		flood := func() (ok, limited int) {
			for range 50 {
				c.push("$history", `{"top":true}`)
			}
			for _, m := range c.messages() {
				switch {
				case m.status == "ok":
					ok++
				case m.payload == `{"reason":"rate"}`:
					limited++
				default:
					t.Errorf("%+v", m)
				}
			}
			return ok, limited
		}
		if ok, limited := flood(); ok != 20 || limited != 30 {
			t.Errorf("%d answered, %d limited", ok, limited)
		}
		time.Sleep(time.Second)
		if ok, limited := flood(); ok != 10 || limited != 40 {
			t.Errorf("after a second: %d answered, %d limited", ok, limited)
		}
		c.leave()
	})
}

// TestTopWaitsForASlowClient checks that the answer follows everything up to the top, and that it
// does not wait forever.
func TestTopWaitsForASlowClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ps := recordedTopic(history.Keep{})
		h := plainRoom(onPush("hush", func(c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.NoReply, c.BroadcastFrom("msg", p)
		}))
		c := newClient(t, ps)
		c.joined(h, `{}`)
		c.drain(0)
		broadcastN(t, ps, "msg", 1, 3)
		c.push("$history", `{"top":true}`)
		synctest.Wait()
		broadcastN(t, ps, "msg", 4, 4)
		if got := c.messages(); len(got) > 0 {
			t.Fatalf("while parked: %+v", got)
		}
		time.Sleep(9 * time.Second)
		c.drain(2)
		if got := texts(c.messages()); !slices.Equal(got, []string{`msg {"n":1}`, `msg {"n":2}`}) {
			t.Fatalf("drained a little: %q", got)
		}
		c.drain(-1)
		got := c.messages()
		if len(got) != 3 || got[0].pos == "" || texts(got)[1] != fmt.Sprintf(`phx_reply {"pos":%q}`, got[0].pos) ||
			got[2].payload != `{"n":4}` {
			t.Errorf("drained: %q", texts(got))
		}

		c.push("hush", `{"n":5}`)
		c.push("$history", `{"top":true}`)
		got = c.messages()
		if len(got) != 2 || got[0].event != "$history" || got[1].payload != fmt.Sprintf(`{"pos":%q}`, got[0].pos) {
			t.Errorf("after an own event: %q", texts(got))
		}

		c.drain(0)
		broadcastN(t, ps, "msg", 6, 6)
		c.push("$history", `{"top":true}`)
		time.Sleep(11 * time.Second)
		if got := texts(c.messages()); !slices.Equal(got, []string{`phx_reply {"reason":"history unavailable"}`}) {
			t.Errorf("after 11 s: %q", got)
		}
		c.drain(-1)
		if got := texts(c.messages()); !slices.Equal(got, []string{`msg {"n":6}`}) {
			t.Errorf("later: %q", got)
		}
		c.leave()
	})
}
