package socket

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/key"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// extendedPeer makes p a server with $socket, whose clock is ahead of the client's.
func extendedPeer(p *peer, ahead *atomic.Int64) {
	p.extends = true
	p.clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	p.join = func(k *peerConn, m *serializer.Message) (string, any) {
		if m.Topic != topicSocket {
			return "ok", nil
		}
		return "ok", socketReply{
			ID: testConnection, Client: testClient, Now: p.clock().UnixMilli(), Version: "1.2.3",
			Limits: socketLimits{Message: 1, Queue: 2, Channels: 3, Topic: 4, Joins: 5, Pushes: 6, IdleMS: 7},
		}
	}
}

// ownBubble runs f with a client of an extended peer.
func ownBubble(t *testing.T, cfg ClientConfig, f func(t *testing.T, p *peer, c *Client, ahead *atomic.Int64)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, ahead := newPeer(), new(atomic.Int64)
		extendedPeer(p, ahead)
		c := p.client(cfg)
		defer closeClient(t, c)
		f(t, p, c, ahead)
	})
}

// TestClientJoinsSocketChannel checks that the client joins $socket first on each connection, in
// one write with the joins of its channels, and what it learns.
func TestClientJoinsSocketChannel(t *testing.T) {
	t.Parallel()
	ownBubble(t, ClientConfig{ClientID: testClient}, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
		if got := c.Info(); got != (Info{ClientID: testClient}) {
			t.Errorf("before the first connection: %+v", got)
		}
		writes := 0
		p.prepare = func(k *peerConn) { k.written = func() { writes++ } }
		a, b := c.Channel("a", nil), c.Channel("b", nil)
		a.Join()
		b.Join()
		connected(t, c)
		wantFrames(t, p,
			`"1" "1" $socket phx_join {"version":"bennu-go/0.9.0","move":true}`,
			`"2" "2" a phx_join {}`, `"3" "3" b phx_join {}`)
		if writes != 1 {
			t.Errorf("%d writes", writes)
		}
		want := Info{
			ConnectionID: testConnection, ClientID: testClient, Version: "1.2.3", Server: true,
			Limits: Limits{Message: 1, Queue: 2, Channels: 3, Topic: 4, Joins: 5, Pushes: 6, Idle: 7 * time.Millisecond},
		}
		if got := c.Info(); got != want {
			t.Errorf("%+v", got)
		}
		params := "%24client=" + testClient + "&%24order="
		if got := p.dialConfigs()[0].Params; got != params+fmt.Sprint(beginning) {
			t.Errorf("params %q", got)
		}
		p.set(func() { p.frames = nil })
		p.last().cut(errReset)
		time.Sleep(100 * time.Millisecond)
		wantFrames(t, p,
			`"4" "4" $socket phx_join {"version":"bennu-go/0.9.0","move":true}`,
			`"5" "5" a phx_join {}`, `"6" "6" b phx_join {}`)
		if s := c.Stats(); len(s.Channels) != 2 || s.Unanswered != 0 {
			t.Errorf("the socket's own channel is in the stats: %+v", s)
		}
		mustFail(t, c.Channel("$socket", nil).Join(), channel.ErrDuplicate)
	})
}

// TestClientWithoutSocketChannel checks that the client works with servers that do not have
// $socket, and does not join again on the same connection.
func TestClientWithoutSocketChannel(t *testing.T) {
	t.Parallel()
	const asked = `"1" "1" $socket phx_join {"version":"bennu-go/0.9.0","move":true}`
	for name, test := range map[string]struct {
		reply func() (string, any)
		more  []string
	}{
		"unmatched topic": {reply: func() (string, any) { return "error", map[string]string{"reason": "unmatched topic"} }},
		"no answer":       {reply: func() (string, any) { return "", nil }},
		"a route that matches every topic": {
			reply: func() (string, any) { return "ok", map[string]string{"hello": "world"} },
			more:  []string{`"1" "3" $socket phx_leave {}`},
		},
		"a malformed reply": {
			reply: func() (string, any) { return "ok", []int{1} }, more: []string{`"1" "3" $socket phx_leave {}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ownBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
				p.join = func(_ *peerConn, m *serializer.Message) (string, any) {
					if m.Topic == topicSocket {
						return test.reply()
					}
					return "ok", nil
				}
				room := c.Channel("a", nil)
				join := room.Join()
				connected(t, c)
				mustReply(t, join)
				mustReply(t, room.Push("echo", 1))
				time.Sleep(25 * time.Minute) // in virtual time: heartbeats, and no other message of $socket
				frames := slicesWithout(p.got("heartbeat"), " a ")
				if want := append([]string{asked}, test.more...); fmt.Sprint(frames) != fmt.Sprint(want) {
					t.Errorf("got %q, want %q", frames, want)
				}
				if got := c.Info(); got.Server || len(got.ClientID) != 32 || got != (Info{ClientID: got.ClientID}) {
					t.Errorf("%+v", got)
				}
				if _, _, ok := c.TimeOffset(); ok {
					t.Error("there is a sample of the server's clock")
				}
				if d := time.Until(c.Now()); d.Abs() > time.Millisecond {
					t.Errorf("Now is off by %v", d)
				}
				p.last().cut(errReset)
				time.Sleep(time.Minute)
				if n := countWith(p.got(), "$socket phx_join"); n != 2 {
					t.Errorf("%d joins of $socket on two connections", n)
				}
			})
		})
	}
}

func slicesWithout(list []string, part string) (rest []string) {
	for _, s := range list {
		if !strings.Contains(s, part) {
			rest = append(rest, s)
		}
	}
	return rest
}

func countWith(list []string, part string) int { return len(list) - len(slicesWithout(list, part)) }

// TestClientSocketChannelEnds checks that the client survives the end of the server's $socket, and
// ignores messages of it that it does not expect.
func TestClientSocketChannelEnds(t *testing.T) {
	t.Parallel()
	ownBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
		connected(t, c)
		synctest.Wait()
		k := p.last()
		one := serializer.StringRef("1")
		for _, m := range []serializer.Message{
			{Kind: serializer.KindReply, JoinRef: one, Ref: one, Topic: topicSocket, Status: "ok"},
			{Kind: serializer.KindReply, JoinRef: one, Ref: serializer.StringRef("99"), Topic: topicSocket, Status: "ok"},
			{Kind: serializer.KindPush, JoinRef: one, Topic: topicSocket, Event: "from the future"},
			{Kind: serializer.KindBroadcast, Topic: topicSocket, Event: "x"},
			{Kind: serializer.KindPush, JoinRef: serializer.StringRef("7"), Topic: topicSocket, Event: "phx_close"},
		} {
			k.send(m)
		}
		time.Sleep(5 * time.Second)
		if n := countWith(p.got(), "$socket time"); n != 2 {
			t.Errorf("%d pushes of time", n)
		}
		k.lifecycle(topicSocket, "phx_error", one, nil)
		time.Sleep(time.Hour)
		if n := countWith(p.got(), "$socket time"); n != 2 || !c.Info().Server {
			t.Errorf("%d pushes of time after the end of $socket, %+v", n, c.Info())
		}
	})
}

func TestClientIDs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cfg    ClientConfig
		params string // with the client's id
	}{
		{ClientConfig{}, "%24client=ID&ORDER"},
		{ClientConfig{Params: map[string]int{"a": 1}}, "a=1&%24client=ID&ORDER"},
		{ClientConfig{ClientID: testClient, NoSocketChannel: true}, "%24client=ID"},
		{ClientConfig{NoSocketChannel: true}, ""},
		{ClientConfig{Params: map[string]string{"$client": "x"}}, "%24client=x&ORDER"},
		{ClientConfig{Params: map[string]string{"$order": "7"}}, "%24order=7&%24client=ID"},
		{ClientConfig{Params: map[string]string{"$client": "x", "$a": "y"}}, "%24a=y&%24client=x&ORDER"},
	} {
		ownBubble(t, test.cfg, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
			id := c.Info().ClientID
			connected(t, c)
			for i, k := range []int64{beginning, beginning + 1} { // it connects again in the same millisecond
				if i > 0 {
					c.Pause()
					connected(t, c)
				}
				want := strings.NewReplacer("ID", id, "ORDER", fmt.Sprint("%24order=", k)).Replace(test.params)
				if got := p.dialConfigs()[i].Params; got != want {
					t.Errorf("params %q, want %q with %q", got, want, id)
				}
			}
		})
	}
	a, b := NewClient("ws://peer.test", nil), NewClient("ws://peer.test", nil)
	defer closeClient(t, a)
	defer closeClient(t, b)
	if x, y := a.Info().ClientID, b.Info().ClientID; x == y || !isClientID(x) {
		t.Errorf("ids %q and %q", x, y)
	}
	ownBubble(t, ClientConfig{ClientID: "too short"}, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
		c.Connect()
		if err := c.Ready(t.Context()); !errors.Is(err, transport.ErrURL) || c.State().Status != StatusFailed {
			t.Errorf("%v, %v", err, c.State())
		}
	})
}

// TestClientServerTime checks the samples: their times, and the estimate under delays and steps of
// the server's clock.
func TestClientServerTime(t *testing.T) {
	t.Parallel()
	ownBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, ahead *atomic.Int64) {
		ahead.Store(int64(time.Hour))
		delay := 300 * time.Millisecond
		p.prepare = func(k *peerConn) { k.slow = delay }
		connected(t, c)
		time.Sleep(delay) // the reply to the join is there
		synctest.Wait()
		offset, maxError, ok := c.TimeOffset()
		if !ok || (offset-time.Hour).Abs() > maxError || maxError < delay/2 || maxError > delay/2+2*time.Millisecond {
			t.Errorf("offset %v ± %v, %v", offset, maxError, ok)
		}
		p.last().change(func() { p.last().slow = 10 * time.Millisecond })
		time.Sleep(2500 * time.Millisecond)
		if n := countWith(p.got(), "$socket time"); n != 2 {
			t.Errorf("%d samples after 2.5 s", n)
		}
		offset, maxError, _ = c.TimeOffset()
		if (offset-time.Hour).Abs() > maxError || maxError > 7*time.Millisecond {
			t.Errorf("after better samples: offset %v ± %v", offset, maxError)
		}
		time.Sleep(25 * time.Minute)
		if n := countWith(p.got(), "$socket time"); n != 4 {
			t.Errorf("%d samples after 25 min", n)
		}
		if d := c.Now().Sub(p.clock()); d.Abs() > maxError {
			t.Errorf("Now is off by %v", d)
		}

		before := c.Now()
		ahead.Store(0) // the server's clock is set back; Now must not go back
		time.Sleep(10 * time.Minute)
		if offset, maxError, _ = c.TimeOffset(); offset.Abs() > maxError {
			t.Errorf("after a step of the server's clock: offset %v ± %v", offset, maxError)
		}
		first, second := c.Now(), c.Now()
		if first.Sub(before) != 1 || second.Sub(first) != 1 {
			t.Errorf("Now returned %v, %v, %v", before, first, second)
		}
		time.Sleep(time.Hour)
		if d := c.Now().Sub(p.clock()); d.Abs() > maxError {
			t.Errorf("when it has caught up, Now is off by %v", d)
		}
	})
}

// TestServerClockSamples checks that of the last 8 samples the one with the least error counts.
func TestServerClockSamples(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serverClock{base: time.Now()}
		add := func(half, offset time.Duration) {
			sent := time.Now()
			time.Sleep(2 * half) // in virtual time
			s.add(sent, time.Now(), sent.Add(half+offset).UnixMilli())
		}
		want := func(maxError time.Duration) {
			t.Helper()
			if best := s.best(); best == nil || best.maxError != maxError+time.Millisecond || len(s.samples) > 8 {
				t.Errorf("best %+v of %d, want ±%v", best, len(s.samples), maxError)
			}
		}
		add(10*time.Millisecond, 5*time.Millisecond)
		for range 7 {
			add(50*time.Millisecond, 0)
			want(10 * time.Millisecond)
		}
		add(50*time.Millisecond, 0) // the ninth
		want(50 * time.Millisecond)
		add(20*time.Millisecond, 0)
		want(20 * time.Millisecond)
		add(time.Second, time.Minute) // contradicts the others
		want(time.Second)
		add(20*time.Millisecond, time.Minute)
		time.Sleep(2 * time.Hour)
		s.forget(3 * time.Hour)
		want(20 * time.Millisecond)
		s.forget(time.Hour)
		if s.best() != nil {
			t.Error("old samples are left")
		}
		for _, milli := range []int64{-1 << 63, 1<<63 - 1, 0} { // whatever a server answers
			s.add(time.Now(), time.Now(), milli)
		}
	})
}

// TestClientKeys checks that keys have the server's time.
func TestClientKeys(t *testing.T) {
	t.Parallel()
	ownBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, ahead *atomic.Int64) {
		ahead.Store(int64(time.Hour))
		first := c.NewKey()
		connected(t, c)
		synctest.Wait()
		second, third := c.NewKey(), c.NewKey()
		at, err := key.Time(second)
		if err != nil || first >= second || second >= third || at.Sub(p.clock()).Abs() > time.Millisecond {
			t.Errorf("%q, %q, %q of %v: %v", first, second, third, at, err)
		}
	})
}

func TestClientPing(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		if _, err := c.Ping(t.Context()); !errors.Is(err, ErrPaused) {
			t.Errorf("paused: %v", err)
		}
		p.prepare = func(k *peerConn) { k.slow = 120 * time.Millisecond }
		connected(t, c)
		results := make(chan string, 2)
		for range 2 {
			go func() {
				rtt, err := c.Ping(t.Context())
				results <- fmt.Sprint(rtt, err)
			}()
		}
		for range 2 {
			if got := <-results; got != "120ms <nil>" {
				t.Errorf("got %s", got)
			}
		}
		if n := len(p.got()); n != 1 {
			t.Errorf("%d heartbeats for two calls at once", n)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(p.got()); n != 2 {
			t.Errorf("%d heartbeats 30 s later", n)
		}
		k := p.last()
		k.change(func() { k.lose = true })
		go func() {
			_, err := c.Ping(t.Context())
			results <- fmt.Sprint(errors.Is(err, push.ErrLost))
		}()
		synctest.Wait()
		k.cut(errReset)
		if got := <-results; got != "true" {
			t.Errorf("after the end of the connection: %s", got)
		}
		p.refuse = nil
		closeClient(t, c)
		if _, err := c.Ping(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestClientURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"wss://example.com/socket":                      "wss://example.com/socket",
		"wss://ann:secret@example.com:8443/a?token=1&x": "wss://example.com:8443/a",
		"://?token=1": "://",
	} {
		c := NewClient(in, nil)
		if got := c.URL(); got != want {
			t.Errorf("%s: %s", in, got)
		}
		closeClient(t, c)
	}
}
