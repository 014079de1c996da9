package socket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// outboxPeer is a peer that notes the durable pushes that it receives.
type outboxPeer struct {
	*peer
	mu     sync.Mutex
	window int // of the reply to a join; zero means that there is none
	sent   []outboxSent
	answer func(s outboxSent, times int) (status string, payload any)
	times  map[string]int // by id
}

type outboxSent struct {
	topic, id, n string
	at           time.Time
	joinRef      string
}

func newOutboxPeer() *outboxPeer {
	p := &outboxPeer{peer: newPeer(), times: make(map[string]int)}
	p.peer.join = func(_ *peerConn, m *serializer.Message) (string, any) {
		if _, _, asked := m.Payload.Cut("$once"); asked && p.window > 0 {
			return "ok", map[string]any{"$once": map[string]int{"window": p.window}}
		}
		return "ok", nil
	}
	p.peer.push = func(k *peerConn, m *serializer.Message) (string, any) {
		var body struct {
			ID string `json:"$id"`
			N  string `json:"n"`
		}
		if err := m.Payload.Decode(&body); err != nil {
			panic(err)
		}
		s := outboxSent{m.Topic, body.ID, body.N, time.Now(), string(m.JoinRef)}
		p.mu.Lock()
		p.sent = append(p.sent, s)
		p.times[s.id]++
		answer, times := p.answer, p.times[s.id]
		p.mu.Unlock()
		if answer == nil {
			return "ok", map[string]string{"n": s.n}
		}
		status, payload := answer(s, times)
		switch status {
		case "crash":
			k.change(func() { delete(k.joined, m.Topic) })
			k.lifecycle(m.Topic, serializer.EventError, m.JoinRef, nil)
			return "", nil
		case "cut":
			k.cut(errReset)
			return "", nil
		case "too big":
			k.end(&transport.CloseError{Code: transport.CodeTooBig})
			return "", nil
		}
		return status, payload
	}
	return p
}

// list returns what was sent of a topic, as the texts of the pushes.
func (p *outboxPeer) list(topic string) (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sent {
		if s.topic == topic {
			list = append(list, s.n)
		}
	}
	return list
}

// resends returns the whole seconds between the sendings, and checks that all have the same id.
func (p *outboxPeer) resends(t *testing.T) (gaps []int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 1; i < len(p.sent); i++ {
		if p.sent[i].id != p.sent[0].id || p.sent[i].id == "" {
			t.Errorf("sent with the ids %q and %q", p.sent[0].id, p.sent[i].id)
		}
		gaps = append(gaps, int(p.sent[i].at.Sub(p.sent[i-1].at).Round(time.Second)/time.Second))
	}
	return gaps
}

// deliveries notes the calls of OnDelivered.
type deliveries struct {
	mu   sync.Mutex
	list []string // the text of the push and the result
	errs []error
}

func (d *deliveries) note(e offline.Entry, reply serializer.Payload, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var p struct{ N string }
	_ = serializer.Value(jsonRaw(e.Payload)).Decode(&p)
	text := p.N + " " + jsonOf(reply)
	if err != nil {
		text = p.N + " error"
	}
	d.list, d.errs = append(d.list, text), append(d.errs, err)
}

func (d *deliveries) get() ([]string, []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list), slices.Clone(d.errs)
}

func jsonRaw(b []byte) serializer.Payload {
	var p serializer.Payload
	_ = p.UnmarshalJSON(b)
	return p
}

// outboxClient returns a client with an outbox in the store.
func outboxClient(
	p *outboxPeer, store offline.Store, change func(*offline.Config, *ClientConfig),
) (*Client, *deliveries) {
	d := new(deliveries)
	cfg := offline.Config{Store: store, Identity: "ann", OnDelivered: d.note}
	client := ClientConfig{Offline: &cfg}
	if change != nil {
		change(&cfg, &client)
	}
	return p.client(client), d
}

// outboxBubble runs f in virtual time with a peer and a client with an outbox, and closes the
// client.
func outboxBubble(
	t *testing.T, change func(*offline.Config, *ClientConfig),
	f func(t *testing.T, p *outboxPeer, c *Client, d *deliveries),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newOutboxPeer()
		c, d := outboxClient(p, offline.NewMemory(), change)
		defer closeClient(t, c)
		f(t, p, c, d)
	})
}

func pushDurable(t *testing.T, ch *channel.Client, n string) *push.Push {
	t.Helper()
	p, err := ch.PushDurable(t.Context(), "msg", map[string]string{"n": n})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func numbers(from, to int) (list []string) {
	for i := from; i <= to; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

// TestOutboxOrder checks that the entries of a topic are sent in order, at most 8 of them
// unanswered, and independently of other topics.
func TestOutboxOrder(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("Ordered %t", ordered), func(t *testing.T) {
			t.Parallel()
			limit := 8
			if ordered {
				limit = 1
			}
			outboxBubble(t, func(cfg *offline.Config, _ *ClientConfig) { cfg.Ordered = ordered },
				func(t *testing.T, p *outboxPeer, c *Client, d *deliveries) {
					p.answer = func(s outboxSent, times int) (string, any) {
						if s.topic == "room:1" && times == 1 {
							return "", nil // never: the attempt times out
						}
						return "ok", nil
					}
					one, two := c.Channel("room:1", nil), c.Channel("room:2", nil)
					var all []*push.Push
					for _, n := range numbers(1, 20) {
						all = append(all, pushDurable(t, one, n), pushDurable(t, two, n))
					}
					if n := len(c.Undelivered()); n != 40 {
						t.Fatalf("%d entries are undelivered", n)
					}
					connected(t, c)
					mustReply(t, one.Join())
					mustReply(t, two.Join())
					synctest.Wait()
					if got := p.list("room:1"); !slices.Equal(got, numbers(1, limit)) {
						t.Fatalf("sent %v, want the first %d", got, limit)
					}
					if got := p.list("room:2"); !slices.Equal(got, numbers(1, 20)) {
						t.Fatalf("sent %v on the other topic", got)
					}
					for _, one := range all {
						mustReply(t, one)
					}
					synctest.Wait()
					if n := len(c.Undelivered()); n != 0 {
						t.Fatalf("%d entries are undelivered", n)
					}
					if list, _ := d.get(); len(list) != 40 {
						t.Fatalf("OnDelivered was called for %v", list)
					}
					if ordered { // the first sendings and their repetitions alternate
						for i, n := range p.list("room:1") {
							if n != fmt.Sprint(i/2+1) {
								t.Fatalf("sent %v", p.list("room:1"))
							}
						}
					}
				})
		})
	}
}

// TestOutboxResends checks that an entry is sent again with the same id after each outcome that is
// not final, and when.
func TestOutboxResends(t *testing.T) {
	t.Parallel()
	refuse := func(reason string) func(outboxSent, int) (string, any) {
		return func(_ outboxSent, times int) (string, any) {
			if times == 6 {
				return "ok", map[string]int{"id": 7}
			}
			return "error", map[string]string{"reason": reason}
		}
	}
	outcome := func(status string, last int) func(outboxSent, int) (string, any) {
		return func(_ outboxSent, times int) (string, any) {
			if times == last {
				return "ok", map[string]int{"id": 7}
			}
			return status, nil
		}
	}
	delays := []int{1, 2, 5, 10, 10}
	for _, test := range []struct {
		name   string
		answer func(outboxSent, int) (string, any)
		want   []int
	}{
		{"too many messages", refuse("too many messages"), delays},
		{"too many ids", refuse("too many ids"), delays},
		{"unavailable", refuse("unavailable"), delays},
		{"history unavailable", refuse("history unavailable"), delays},
		{"token expired", refuse("token expired"), delays},
		{"unmatched topic", refuse("unmatched topic"), delays},
		{"timeout", outcome("", 6), []int{11, 12, 15, 20, 20}}, // 10 s until the timeout
		{"lost", outcome("cut", 6), delays},
		{"crash", outcome("crash", 5), delays[:4]},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			change := func(_ *offline.Config, cfg *ClientConfig) {
				cfg.RejoinAfter = func(int) time.Duration { return 10 * time.Millisecond }
			}
			outboxBubble(t, change, func(t *testing.T, p *outboxPeer, c *Client, d *deliveries) {
				p.answer = test.answer
				connected(t, c)
				ch := joined(t, c, "room:1")
				got := mustReply(t, pushDurable(t, ch, "1"))
				synctest.Wait()
				if jsonOf(got) != `{"id":7}` {
					t.Error(jsonOf(got))
				}
				if gaps := p.resends(t); !slices.Equal(gaps, test.want) {
					t.Errorf("sent again after %v s, want %v", gaps, test.want)
				}
				if list, errs := d.get(); !slices.Equal(list, []string{`1 {"id":7}`}) || errs[0] != nil {
					t.Errorf("OnDelivered: %v, %v", list, errs)
				}
				if left := c.Undelivered(); len(left) != 0 {
					t.Errorf("undelivered: %v", left)
				}
			})
		})
	}
}

// TestOutboxFinal checks the outcomes that answer an entry.
func TestOutboxFinal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, status string
		payload      any
		times        int
		want         error
	}{
		{"error", "error", map[string]string{"reason": "be kind"}, 1, push.Reason("be kind")},
		{"invalid id", "error", map[string]string{"reason": "invalid id"}, 1, push.Reason("invalid id")},
		{"other status", "maybe", map[string]string{"reason": "unavailable"}, 1, push.Reason("unavailable")},
		{"five crashes", "crash", nil, 5, push.Reason("crashed")},
		{"too big", "too big", nil, 5, push.Reason("crashed")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			outboxBubble(t, nil, func(t *testing.T, p *outboxPeer, c *Client, d *deliveries) {
				p.answer = func(s outboxSent, _ int) (string, any) {
					if s.n == "1" {
						return test.status, test.payload
					}
					return "ok", nil
				}
				connected(t, c)
				ch := joined(t, c, "room:1")
				first, second := pushDurable(t, ch, "1"), pushDurable(t, ch, "2")
				mustFail(t, first, test.want)
				mustReply(t, second)
				synctest.Wait()
				sent := slices.DeleteFunc(p.list("room:1"), func(n string) bool { return n != "1" })
				if len(sent) != test.times {
					t.Errorf("sent %v", p.list("room:1"))
				}
				list, errs := d.get()
				slices.Sort(list)
				if !slices.Equal(list, []string{"1 error", "2 {}"}) || !slices.ContainsFunc(errs, func(err error) bool {
					return errors.Is(err, test.want)
				}) {
					t.Errorf("OnDelivered: %v, %v", list, errs)
				}
			})
		})
	}
}

// TestOutboxRestart checks that the next client of a store sends what the last one did not, and
// that Close does not wait for that.
func TestOutboxRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newOutboxPeer(), offline.NewMemory()
		c, _ := outboxClient(p, store, nil)
		id := c.Info().ClientID
		one := c.Channel("room:1", nil)
		own, err := one.PushDurable(t.Context(), "msg", map[string]string{"n": "1", "$id": "own-id_1"})
		if err != nil {
			t.Fatal(err)
		}
		second := pushDurable(t, one, "2")
		start := time.Now()
		closeClient(t, c)
		if time.Since(start) > 0 {
			t.Errorf("Close took %v", time.Since(start))
		}
		mustFail(t, own, channel.ErrClosed)
		mustFail(t, second, ErrClosed)
		if _, err := one.PushDurable(t.Context(), "msg", nil); !errors.Is(err, channel.ErrClosed) {
			t.Errorf("PushDurable after Close: %v", err)
		}

		c, d := outboxClient(p, store, nil)
		defer closeClient(t, c)
		if got := c.Info().ClientID; got != id || len(id) < 16 {
			t.Errorf("$client is %q, then %q", id, got)
		}
		left := c.Undelivered()
		if len(left) != 2 || left[0].ID != "own-id_1" || left[0].Topic != "room:1" || left[0].Event != "msg" ||
			string(left[0].Payload) != `{"n":"1"}` || left[0].Seq >= left[1].Seq || !left[0].Sent.IsZero() {
			t.Fatalf("undelivered: %+v", left)
		}
		connected(t, c)
		ch := joined(t, c, "room:1")
		mustReply(t, pushDurable(t, ch, "3"))
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := p.list("room:1"); !slices.Equal(got, numbers(1, 3)) || p.times["own-id_1"] != 1 {
			t.Errorf("sent %v", got)
		}
		if list, _ := d.get(); !slices.Equal(list, []string{`1 {"n":"1"}`, `2 {"n":"2"}`, `3 {"n":"3"}`}) {
			t.Errorf("OnDelivered: %v", list)
		}
		if left := c.Undelivered(); len(left) != 0 {
			t.Errorf("undelivered: %v", left)
		}
	})
}

// TestOutboxFlush checks that Flush waits for entries, and that its context ends the wait only.
func TestOutboxFlush(t *testing.T) {
	t.Parallel()
	outboxBubble(t, nil, func(t *testing.T, p *outboxPeer, c *Client, _ *deliveries) {
		ch := c.Channel("room:1", nil)
		first := pushDurable(t, ch, "1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		connected(t, c)
		mustReply(t, ch.Join())
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-first.Done():
		default:
			t.Fatal("Flush returned before the entry was answered")
		}
	})
}

// TestOutboxOffWithoutConfig checks that a client without Offline sends nothing else than before.
func TestOutboxOffWithoutConfig(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		if _, err := ch.PushDurable(t.Context(), "msg", nil); !errors.Is(err, offline.ErrStore) {
			t.Error(err)
		}
		if c.Undelivered() != nil {
			t.Error("undelivered entries without an outbox")
		}
		wantFrames(t, p, `"1" "1" room:1 phx_join {}`)
	})
	outboxBubble(t, nil, func(t *testing.T, p *outboxPeer, c *Client, _ *deliveries) {
		connected(t, c)
		mustReply(t, c.Channel("room:1", map[string]int{"a": 1}).Join())
		mustReply(t, c.Channel("room:2", "text").Join())
		synctest.Wait()
		got := strings.Join(p.got("heartbeat"), "\n")
		if !strings.Contains(got, `room:1 phx_join {"$once":{},"a":1}`) || !strings.Contains(got, `room:2 phx_join "text"`) {
			t.Error(got)
		}
	})
}

// TestOutboxRefusals checks what PushDurable does not accept.
func TestOutboxRefusals(t *testing.T) {
	t.Parallel()
	change := func(cfg *offline.Config, _ *ClientConfig) { cfg.Count = 2 }
	outboxBubble(t, change, func(t *testing.T, _ *outboxPeer, c *Client, _ *deliveries) {
		ch := c.Channel("room:1", nil)
		for _, payload := range []any{
			"text", []int{1}, serializer.Binary([]byte("b")), map[string]any{"$id": 5}, map[string]any{"$id": ""},
			map[string]any{"$id": "a b"}, map[string]any{"$id": strings.Repeat("a", 65)}, func() {},
		} {
			if _, err := ch.PushDurable(t.Context(), "msg", payload); !errors.Is(err, serializer.ErrPayload) {
				t.Errorf("%v: %v", payload, err)
			}
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := ch.PushDurable(canceled, "msg", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled context: %v", err)
		}
		if len(c.Undelivered()) != 0 {
			t.Fatalf("undelivered: %v", c.Undelivered())
		}
		pushDurable(t, ch, "1")
		pushDurable(t, ch, "2")
		if _, err := ch.PushDurable(t.Context(), "msg", nil); !errors.Is(err, push.ErrFull) {
			t.Errorf("full outbox: %v", err)
		}
		connected(t, c)
		mustReply(t, ch.Join())
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait() // for the removal
		pushDurable(t, ch, "3")
	})
}
