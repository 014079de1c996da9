package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/serializer"
)

// joinsOf returns the topics of the joins that the peer has received, in order.
func joinsOf(p *peer) (topics []string) {
	for _, f := range p.got() {
		if f := strings.Fields(f); f[3] == serializer.EventJoin {
			topics = append(topics, f[2])
		}
	}
	return topics
}

func wantJoins(t *testing.T, p *peer, want string) {
	t.Helper()
	synctest.Wait()
	if got := strings.Join(joinsOf(p), " "); got != want {
		t.Errorf("joins %q, want %q", got, want)
	}
	p.set(func() { p.frames = nil })
}

func wantWaiting(t *testing.T, ch *channel.Client, state channel.ClientState, waiting string) {
	t.Helper()
	synctest.Wait()
	if s := ch.Stats(); s.State != state || s.Waiting != waiting {
		t.Errorf("%s waits for %q, want %s and %q", s.State, s.Waiting, state, waiting)
	}
}

// TestClientJoinOrder checks the order of joins on the wire: by priority, and then by first Join.
func TestClientJoinOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		p.extends = true
		c := p.client(ClientConfig{})
		defer closeClient(t, c)
		rooms := map[string]*channel.Client{}
		for _, r := range []struct {
			name     string
			priority int
		}{{"a", 0}, {"b", 10}, {"c", -5}, {"d", 200}, {"e", 0}, {"f", 100}} {
			rooms[r.name] = c.Channel(r.name, nil).Priority(r.priority)
			rooms[r.name].Join()
		}
		connected(t, c)
		wantJoins(t, p, "$socket d f b a e c")

		mustReply(t, rooms["a"].Leave())
		mustReply(t, rooms["a"].Join())
		wantJoins(t, p, "a")
		p.last().end(errReset)
		time.Sleep(time.Second)
		wantJoins(t, p, "$socket d f b a e c")
	})
}

// TestClientJoinBeforePush checks that a join is sent before the pushes of other channels that
// follow its Join.
func TestClientJoinBeforePush(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		a := joined(t, c, "a")
		gate := make(chan struct{})
		c.post(clientTask(func() { <-gate })) // what follows is one batch of the loop
		b := c.Channel("b", nil)
		b.Join()
		reply := a.Push("echo", 1)
		b.Push("echo", 2)
		d := c.Channel("d", nil).Priority(1)
		d.Join()
		close(gate)
		mustReply(t, reply)
		wantJoins(t, p, "a b d")
	})
}

func TestClientJoinConcurrency(t *testing.T) {
	t.Parallel()
	for bound, want := range map[int]int{0: 64, 3: 3, -1: 100} {
		clientBubble(t, ClientConfig{JoinConcurrency: bound}, func(t *testing.T, p *peer, c *Client) {
			p.join = func(*peerConn, *serializer.Message) (string, any) { return "", nil }
			var all []*channel.Client
			for i := range 100 {
				all = append(all, c.Channel(fmt.Sprint("room:", i), nil))
				all[i].Join()
			}
			connected(t, c)
			synctest.Wait()
			if n := len(joinsOf(p)); n != want {
				t.Fatalf("%d joins are unanswered, want %d", n, want)
			}
			if bound < 0 {
				return
			}
			wantWaiting(t, all[0], channel.StateJoining, "reply")
			wantWaiting(t, all[99], channel.StateJoining, "turn")
			p.last().lifecycle("room:0", serializer.EventError, `"1"`, nil) // room:0 counts no more
			synctest.Wait()
			if n := len(joinsOf(p)); n != want+1 {
				t.Fatalf("%d joins after one has failed, want %d", n, want+1)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if n := len(joinsOf(p)); n < min(2*want, 100) {
				t.Errorf("%d joins after 1 s: unanswered ones hold up the others", n)
			}
		})
	}
}

// TestClientJoinPace checks that 1,000 joins stay below a server's default JoinRate.
func TestClientJoinPace(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		for i := range 1000 {
			c.Channel(fmt.Sprint("room:", i), nil).Join()
		}
		connected(t, c)
		for round := range 2 {
			begin := time.Now()
			for _, want := range []int{800, 900, 1000} {
				synctest.Wait()
				if n := len(joinsOf(p)); n != want {
					t.Fatalf("round %d: %d joins after %v, want %d", round, n, time.Since(begin), want)
				}
				time.Sleep(250 * time.Millisecond)
			}
			p.set(func() { p.frames = nil })
			p.last().end(errReset)
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// TestClientTooManyJoins checks that a join beyond the server's rate is sent again, and has
// not failed.
func TestClientTooManyJoins(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		refusals := 3
		p.join = func(*peerConn, *serializer.Message) (string, any) {
			if refusals--; refusals >= 0 {
				return "error", map[string]string{"reason": "too many joins"}
			}
			return "ok", nil
		}
		connected(t, c)
		ch := c.Channel("room:1", nil)
		ch.OnError(func(err error) { t.Errorf("error: %v", err) })
		begin := time.Now()
		join := ch.Join()
		wantWaiting(t, ch, channel.StateJoining, "turn")
		mustReply(t, join)
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("joined after %v", d)
		}
		wantWaiting(t, ch, channel.StateJoined, "")
	})
}

// TestClientSlowParams checks that functions hold up the joins behind them for at most 1 s, and
// that functions that fail hold up nothing.
func TestClientSlowParams(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{JoinConcurrency: 2}, func(t *testing.T, p *peer, c *Client) {
		takes := func(d time.Duration, err error) func(ctx context.Context) (any, error) {
			return func(ctx context.Context) (any, error) {
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
				return nil, err
			}
		}
		slow := c.Channel("slow", takes(1500*time.Millisecond, nil))
		slow.Join()
		failing := c.Channel("failing", takes(10*time.Millisecond, errors.New("no ticket")))
		failing.Join()
		c.Channel("fast", takes(100*time.Millisecond, nil)).Join()
		c.Channel("fixed", nil).Join()
		connected(t, c)
		wantWaiting(t, slow, channel.StateJoining, "params")
		time.Sleep(999 * time.Millisecond)
		wantWaiting(t, failing, channel.StateErrored, "rejoin")
		wantJoins(t, p, "")
		time.Sleep(time.Millisecond)
		wantJoins(t, p, "fast fixed")
		time.Sleep(500 * time.Millisecond)
		wantJoins(t, p, "slow")
		wantWaiting(t, slow, channel.StateJoined, "")
	})
}

func TestClientManualRejoin(t *testing.T) {
	t.Parallel()
	rejoinAfter := func(int) time.Duration { t.Error("RejoinAfter was called"); return 0 }
	clientBubble(t, ClientConfig{ManualRejoin: true, RejoinAfter: rejoinAfter},
		func(t *testing.T, p *peer, c *Client) {
			a, b := c.Channel("a", nil), c.Channel("b", nil).Priority(1)
			a.Join()
			b.Join()
			wantWaiting(t, a, channel.StateJoining, "rejoin")
			connected(t, c)
			wantJoins(t, p, "")
			c.Rejoin()
			wantJoins(t, p, "b a")

			p.last().end(errReset)
			time.Sleep(time.Second)
			wantWaiting(t, a, channel.StateErrored, "rejoin")
			reply := a.Push("echo", 1)
			wantJoins(t, p, "")
			a.Rejoin()
			mustReply(t, reply)
			wantJoins(t, p, "a")

			c.Pause()
			synctest.Wait()
			c.Rejoin()
			wantWaiting(t, b, channel.StateErrored, "connection")
			connected(t, c)
			wantJoins(t, p, "b a")

			a.Push("crash", nil)
			wantWaiting(t, a, channel.StateErrored, "rejoin")
			time.Sleep(time.Minute)
			wantJoins(t, p, "")
			a.Rejoin()
			wantJoins(t, p, "a")
		})
}

func TestClientRejoin(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		a, b := joined(t, c, "a"), joined(t, c, "b")
		a.Push("crash", nil)
		b.Push("crash", nil)
		wantWaiting(t, a, channel.StateErrored, "rejoin")
		a.Rejoin()
		wantWaiting(t, a, channel.StateJoined, "")
		wantWaiting(t, b, channel.StateErrored, "rejoin")
		c.Rejoin()
		wantWaiting(t, b, channel.StateJoined, "")
		wantJoins(t, p, "a b a b")
	})
}

func TestClientSetParams(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := c.Channel("room:1", func() {})
		mustFail(t, ch.Join(), serializer.ErrPayload)
		for _, bad := range []any{func() {}, make(chan int)} {
			if err := ch.SetParams(bad); !errors.Is(err, serializer.ErrPayload) {
				t.Errorf("params %T: %v", bad, err)
			}
		}
		for i, params := range []any{
			map[string]int{"n": 1},
			func(context.Context) (any, error) { return map[string]int{"n": 2}, nil },
			serializer.Value(map[string]int{"n": 3}),
		} {
			if err := ch.SetParams(params); err != nil {
				t.Fatal(err)
			}
			ch.Rejoin()
			wantWaiting(t, ch, channel.StateJoined, "")
			frames := p.got("crash")
			if want := fmt.Sprintf(`{"n":%d}`, i+1); !strings.HasSuffix(frames[len(frames)-1], want) {
				t.Errorf("join %s, want %s", frames[len(frames)-1], want)
			}
			ch.Push("crash", nil)
			wantWaiting(t, ch, channel.StateErrored, "rejoin")
		}
	})
}

// TestClientWaiting checks what a channel waits for that has not joined yet.
func TestClientWaiting(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		ch := c.Channel("room:1", nil)
		wantWaiting(t, ch, channel.StateClosed, "")
		ch.Join()
		wantWaiting(t, ch, channel.StateJoining, "connection")
		p.join = func(*peerConn, *serializer.Message) (string, any) { return "", nil }
		connected(t, c)
		wantWaiting(t, ch, channel.StateJoining, "reply")
		p.last().end(errReset)
		c.Pause()
		wantWaiting(t, ch, channel.StateErrored, "connection")
		if s := c.Stats().Channels; len(s) != 1 || s[0].Waiting != "connection" {
			t.Errorf("the stats of the client have %+v", s)
		}
		mustReply(t, ch.Leave())
		wantWaiting(t, ch, channel.StateClosed, "")
	})
}

func TestClientPriorityAfterJoin(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, _ *peer, c *Client) {
		ch := c.Channel("room:1", nil)
		join := ch.Join()
		defer func() {
			if recover() == nil {
				t.Error("Priority after Join did not panic")
			}
			ch.Leave()
			mustFail(t, join, channel.ErrLeft)
		}()
		ch.Priority(1)
	})
}
