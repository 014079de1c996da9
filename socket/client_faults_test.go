package socket

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// traffic keeps a client busy on two channels and records the results.
type traffic struct {
	p     *peer
	c     *Client
	chans []*channel.Client
	stop  chan struct{}
	every time.Duration
	wg    sync.WaitGroup // receivers
	busy  sync.WaitGroup // senders

	mu      sync.Mutex
	pushes  []*tracked
	ticks   map[string][]int // by receiver
	gaps    int
	rejoins int
}

// tracked is a push and the number of its results.
type tracked struct {
	p       *push.Push
	body    string
	answers int
}

func startTraffic(t *testing.T, p *peer, c *Client, every time.Duration) *traffic {
	tr := &traffic{p: p, c: c, every: every, stop: make(chan struct{}), ticks: make(map[string][]int)}
	connected(t, c)
	for _, topic := range []string{"room:a", "room:b"} {
		ch := c.Channel(topic, nil)
		tr.chans = append(tr.chans, ch)
		ch.On("tick", func(v serializer.Payload) { tr.tick("callback "+topic, v) })
		ch.OnJoin(func(serializer.Payload) { tr.mu.Lock(); tr.rejoins++; tr.mu.Unlock() })
		events := ch.Events("tick")
		tr.wg.Go(func() {
			for m, err := range events {
				if err != nil {
					tr.mu.Lock()
					tr.gaps++
					tr.mu.Unlock()
					continue
				}
				tr.tick("iterator "+topic, m.Payload)
			}
		})
		mustReply(t, ch.Join())
		tr.busy.Go(func() { tr.push(ch) })
	}
	tr.busy.Go(tr.broadcast)
	return tr
}

func (tr *traffic) tick(who string, v serializer.Payload) {
	n, err := strconv.Atoi(jsonOf(v))
	if err != nil {
		n = -1
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.ticks[who] = append(tr.ticks[who], n)
}

func (tr *traffic) push(ch *channel.Client) {
	for i := 0; ; i++ {
		select {
		case <-tr.stop:
			return
		case <-time.After(tr.every):
		}
		x := &tracked{body: fmt.Sprintf("%q", fmt.Sprint(ch.Topic(), " ", i))}
		x.p = ch.Push("echo", serializer.Value(fmt.Sprint(ch.Topic(), " ", i)))
		for _, s := range []string{"ok", "error", push.StatusTimeout, push.StatusFailed} {
			x.p.Receive(s, func(serializer.Payload) { tr.mu.Lock(); x.answers++; tr.mu.Unlock() })
		}
		tr.mu.Lock()
		tr.pushes = append(tr.pushes, x)
		tr.mu.Unlock()
	}
}

func (tr *traffic) broadcast() {
	for i := 0; ; i++ {
		select {
		case <-tr.stop:
			return
		case <-time.After(tr.every):
			tr.p.broadcast("room:a", "tick", i)
			tr.p.broadcast("room:b", "tick", i)
		}
	}
}

func (tr *traffic) areJoined() bool {
	for _, ch := range tr.chans {
		if s, _ := ch.State(); s != channel.StateJoined {
			return false
		}
	}
	return true
}

// joinedWithin waits until all channels are joined, for at most d.
func (tr *traffic) joinedWithin(t *testing.T, d time.Duration) {
	t.Helper()
	start := time.Now()
	for !tr.areJoined() {
		if time.Since(start) > d {
			t.Fatalf("not rejoined after %v: %+v", d, tr.c.State())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// finish ends the traffic and checks all results.
func (tr *traffic) finish(t *testing.T) {
	t.Helper()
	close(tr.stop)
	tr.busy.Wait()
	if err := tr.c.Flush(t.Context()); err != nil && t.Context().Err() != nil { // the failures are checked below
		t.Fatal(err)
	}
	if err := tr.c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	tr.wg.Wait()
	synctest.Wait()
	counts := map[string]int{}
	for _, x := range tr.pushes {
		_, err := x.p.Wait(t.Context())
		handled := tr.p.times(x.body)
		kind := "ok"
		switch {
		case err == nil && handled != 1:
			t.Errorf("%s has a reply, but was handled %d times", x.body, handled)
		case err == nil:
		case errors.Is(err, push.ErrFull):
			kind = "full"
			if handled != 0 {
				t.Errorf("%s failed with ErrFull, but was handled", x.body)
			}
		case errors.Is(err, push.ErrLost):
			kind = "lost"
		case errors.Is(err, push.ErrTimeout):
			kind = "timeout"
		default:
			t.Errorf("%s: %v", x.body, err)
		}
		counts[kind]++
		if handled > 1 {
			t.Errorf("%s was handled %d times", x.body, handled)
		}
		if x.answers != 1 {
			t.Errorf("%s had %d results", x.body, x.answers)
		}
	}
	for who, list := range tr.ticks {
		for i := 1; i < len(list); i++ {
			if list[i] <= list[i-1] {
				t.Errorf("%s: %d after %d", who, list[i], list[i-1])
			}
		}
	}
	t.Logf("%d pushes %v, %d joins, %d connections", len(tr.pushes), counts, tr.rejoins, tr.c.Stats().Connections)
}

func TestClientFaults(t *testing.T) {
	t.Parallel()
	refuse := func(err error) func(*peer, *peerConn) {
		return func(p *peer, k *peerConn) {
			p.set(func() { p.refuse = func(context.Context, ClientTransport, int) error { return err } })
			k.cut(errReset)
		}
	}
	on := func(f func(k *peerConn)) func(*peer, *peerConn) {
		return func(_ *peer, k *peerConn) { k.change(func() { f(k) }) }
	}
	for _, test := range []struct {
		name  string
		begin func(p *peer, k *peerConn)
		back  time.Duration // the time to recover after the fault, which lasts 20 s
		by    ClientTransport
	}{
		{"nothing", func(*peer, *peerConn) {}, 0, TransportWebSocket},
		{"reset", func(_ *peer, k *peerConn) { k.cut(errReset) }, 0, TransportWebSocket},
		{"closed with 1012", func(_ *peer, k *peerConn) { k.end(&transport.CloseError{Code: 1012}) }, 0, TransportWebSocket},
		{"closed with 1000", func(_ *peer, k *peerConn) { k.end(&transport.CloseError{Code: 1000}) }, 0, TransportWebSocket},
		{"server restarts", refuse(errReset), 5 * time.Second, TransportWebSocket},
		{"proxy without its server", refuse(denied(502)), 5 * time.Second, TransportWebSocket},
		{"refused", refuse(denied(403)), 20 * time.Second, TransportWebSocket},
		{"dials hang", func(p *peer, k *peerConn) {
			p.set(func() { p.refuse = func(ctx context.Context, _ ClientTransport, _ int) error { return hang(ctx) } })
			k.cut(errReset)
		}, 6 * time.Second, TransportWebSocket},
		{"reads stall", on(func(k *peerConn) { k.stallIn = true }), time.Minute, TransportWebSocket},
		{"writes stall", on(func(k *peerConn) { k.stallOut = true }), time.Minute, TransportWebSocket},
		{"sent frames are lost", on(func(k *peerConn) { k.swallow = true }), time.Minute, TransportWebSocket},
		{"received frames are lost", on(func(k *peerConn) { k.lose = true }), time.Minute, TransportWebSocket},
		{"half open", on(func(k *peerConn) { k.swallow, k.stallIn = true, true }), time.Minute, TransportWebSocket},
		{"slow", on(func(k *peerConn) { k.slow = 3 * time.Second }), 3 * time.Second, TransportWebSocket},
		{"too slow for timeouts", on(func(k *peerConn) { k.slow = 15 * time.Second }), 15 * time.Second, TransportWebSocket},
		{"flapping", func(p *peer, k *peerConn) {
			p.set(func() {
				p.prepare = func(k *peerConn) {
					k.closing = 1500 * time.Millisecond
					time.AfterFunc(time.Duration(rand.IntN(700))*time.Millisecond, func() { k.cut(errReset) })
				}
			})
			k.cut(errReset)
		}, 5 * time.Second, TransportWebSocket},
		{"opens and sends nothing", func(p *peer, k *peerConn) {
			p.set(func() { p.prepare = func(k *peerConn) { k.stallIn = true } })
			k.cut(errReset)
		}, 90 * time.Second, TransportWebSocket},
		{"garbage", func(p *peer, k *peerConn) {
			for i := range 200 {
				time.AfterFunc(time.Duration(i)*100*time.Millisecond, func() { k.raw(serializer.OpText, []byte(`["1",`)) })
			}
		}, 0, TransportWebSocket},
		{"joins are refused", func(p *peer, k *peerConn) {
			p.set(func() { p.join = func(*peerConn, *serializer.Message) (string, any) { return "error", nil } })
			k.cut(errReset)
		}, 10 * time.Second, TransportWebSocket},
		{"joins get no reply", func(p *peer, k *peerConn) {
			p.set(func() { p.join = func(*peerConn, *serializer.Message) (string, any) { return "", nil } })
			k.cut(errReset)
		}, 20 * time.Second, TransportWebSocket},
		{"long poll: reset", func(_ *peer, k *peerConn) { k.cut(errReset) }, 0, TransportLongPoll},
		{"long poll: session gone",
			func(_ *peer, k *peerConn) { k.end(&transport.CloseError{Code: transport.CodeSessionGone}) }, 0, TransportLongPoll},
		{"long poll: answers are lost", on(func(k *peerConn) { k.lose = true }), 0, TransportLongPoll},
		{"long poll: posts are lost", on(func(k *peerConn) { k.swallow = true }), 0, TransportLongPoll},
		{"long poll: posts hang", on(func(k *peerConn) { k.stallOut = true }), 5 * time.Second, TransportLongPoll},
		{"long poll: server restarts", refuse(errReset), 5 * time.Second, TransportLongPoll},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPeer()
				p.prepare = func(k *peerConn) { k.closing = 1500 * time.Millisecond }
				c := p.client(ClientConfig{
					Transport: test.by, AuthTokenFunc: func(context.Context) (string, error) { return "x", nil },
				})
				tr := startTraffic(t, p, c, 100*time.Millisecond)
				time.Sleep(10 * time.Second)
				k := p.last()
				test.begin(p, k)
				time.Sleep(20 * time.Second)
				p.set(func() { p.refuse, p.prepare, p.join = nil, nil, nil })
				k.change(func() { k.stallIn, k.stallOut, k.swallow, k.lose, k.slow = false, false, false, false, 0 })
				if test.name != "opens and sends nothing" {
					last := p.last()
					last.change(func() { last.stallIn = false })
				}
				time.Sleep(test.back)
				tr.joinedWithin(t, 10*time.Millisecond)
				start := time.Now()
				mustReply(t, tr.chans[0].Push("echo", nil))
				if d := time.Since(start); d > time.Second && test.name != "too slow for timeouts" {
					t.Errorf("a push has a result only after %v", d)
				}
				time.Sleep(10 * time.Second)
				tr.finish(t)
			})
		})
	}
}

// TestClientSoak runs traffic on a bad network, with different faults for each seed.
func TestClientSoak(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 7))
				p := newPeer()
				by := []ClientTransport{TransportWebSocket, TransportFallback, TransportLongPoll}[r.IntN(3)]
				c := p.client(ClientConfig{Transport: by, MaxBuffer: 5000, AuthTokenFunc: func(context.Context) (string, error) {
					time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
					if rand.IntN(10) == 0 {
						return "", errors.New("no token")
					}
					return "x", nil
				}})
				tr := startTraffic(t, p, c, 500*time.Millisecond)
				for range 60 {
					time.Sleep(time.Duration(r.IntN(30_000)) * time.Millisecond)
					k := p.last()
					switch r.IntN(12) {
					case 0:
						k.cut(errReset)
					case 1:
						k.end(&transport.CloseError{Code: []int{1000, 1001, 1011, 1012, 1013}[r.IntN(5)]})
					case 2:
						k.change(func() { k.stallIn = !k.stallIn })
					case 3:
						k.change(func() { k.stallOut = !k.stallOut })
					case 4:
						k.change(func() { k.swallow = !k.swallow })
					case 5:
						k.change(func() { k.slow = time.Duration(r.IntN(5000)) * time.Millisecond })
					case 6:
						p.set(func() {
							p.refuse = func(_ context.Context, by ClientTransport, n int) error {
								return []error{errReset, denied(403), denied(500), nil}[n%4]
							}
						})
					case 7:
						p.set(func() { p.refuse, p.prepare, p.join = nil, nil, nil })
					case 8:
						p.set(func() {
							p.join = func(_ *peerConn, m *serializer.Message) (string, any) {
								return []string{"ok", "error", ""}[len(m.Ref)%3], nil
							}
						})
					case 9:
						k.lifecycle("room:a", serializer.EventError, "", nil)
						k.change(func() { delete(k.joined, "room:a") })
					case 10:
						c.Pause()
						time.Sleep(time.Duration(r.IntN(20_000)) * time.Millisecond)
						c.Connect()
					case 11:
						k.raw(serializer.OpBinary, []byte{3, 1, 4})
					}
				}
				p.set(func() { p.refuse, p.prepare, p.join = nil, nil, nil })
				k := p.last()
				k.change(func() { k.stallIn, k.stallOut, k.swallow, k.slow = false, false, false, 0 })
				c.Connect()
				tr.joinedWithin(t, 4*time.Minute)
				time.Sleep(time.Minute)
				tr.joinedWithin(t, time.Minute)
				tr.finish(t)
			})
		})
	}
}

// TestClientClosedAtAnyTime closes clients at random moments. Every push must have a result, every
// waiting call must return, and no goroutine may be left, which synctest checks.
func TestClientClosedAtAnyTime(t *testing.T) {
	t.Parallel()
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 11))
			p := newPeer()
			p.prepare = func(k *peerConn) {
				k.closing = time.Duration(seed%3) * 700 * time.Millisecond
				k.slow = time.Duration(seed%5) * 300 * time.Millisecond
				k.stallIn, k.stallOut, k.swallow = seed%7 == 1, seed%11 == 1, seed%13 == 1
			}
			p.refuse = func(ctx context.Context, _ ClientTransport, n int) error {
				switch (seed + uint64(n)) % 6 {
				case 0:
					return errReset
				case 1:
					return hang(ctx)
				case 2:
					time.Sleep(400 * time.Millisecond)
				case 3:
					return denied(403)
				}
				return nil
			}
			slow := func(ctx context.Context) (any, error) {
				select {
				case <-ctx.Done():
				case <-time.After(300 * time.Millisecond):
				}
				return map[string]int{}, nil
			}
			c := p.client(ClientConfig{Params: slow, Transport: ClientTransport(seed % 3), MaxBuffer: 3000,
				OnProgress: func(ClientStats) {}, ProgressOver: 500})
			var pushes []*push.Push
			var wg sync.WaitGroup
			var chans []*channel.Client
			for i := range 3 {
				ch := c.Channel(fmt.Sprint("room:", i), slow)
				chans = append(chans, ch)
				ch.On("shout", func(serializer.Payload) {
					_, _ = ch.Push("echo", 1).Wait(context.Background())
				})
				events, states := ch.Events(), c.States(context.Background())
				wg.Go(func() {
					for range events {
					}
				})
				wg.Go(func() {
					for range states {
					}
				})
				wg.Go(func() { _ = c.Ready(context.Background()) })
				wg.Go(func() { _ = c.Flush(context.Background()) })
			}
			steps := r.IntN(40)
			for range steps {
				ch := chans[r.IntN(3)]
				switch r.IntN(9) {
				case 0:
					c.Connect()
				case 1:
					pushes = append(pushes, ch.Join())
				case 2:
					pushes = append(pushes, ch.Push("shout", "x"))
				case 3:
					pushes = append(pushes, ch.Push("echo", "y"))
				case 4:
					if r.IntN(5) == 0 {
						pushes = append(pushes, ch.Leave())
					}
				case 5:
					if r.IntN(3) == 0 {
						c.Pause()
					}
				case 6:
					pushes = append(pushes, ch.Push("crash", nil))
				case 7:
					if p.dialCount() > 0 && len(p.conns()) > 0 {
						p.last().cut(errReset)
					}
				case 8:
					time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(3000))*time.Millisecond)
			defer cancel()
			if err := c.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("seed %d: %v", seed, err)
			}
			wg.Wait()
			for _, x := range pushes {
				select {
				case <-x.Done():
				default:
					t.Errorf("seed %d: a push has no result", seed)
				}
			}
			if n, bytes := c.totals.Queued.Load(); n != 0 || bytes != 0 {
				t.Errorf("seed %d: %d pushes of %d bytes count as queued", seed, n, bytes)
			}
			if n, bytes := c.totals.Backlog.Load(); n != 0 || bytes != 0 {
				t.Errorf("seed %d: %d events of %d bytes count as backlog", seed, n, bytes)
			}
		})
	}
}

// TestClientGarbage checks that the client ignores malformed frames and messages.
func TestClientGarbage(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		var got []string
		ch.OnMessage(func(m serializer.Message) { got = append(got, m.Event) })
		k := p.last()
		garbage := []string{
			``, `nonsense`, `{}`, `[]`, `null`, `[1,2,3]`, `["1","1","room:1","phx_reply",{}]`,
			`["1","1","room:1","phx_reply",null]`,
			`["1","1","room:1","phx_reply",{"status":5,"response":{}}]`,
			`["1","99","room:1","phx_reply",{"status":"ok","response":{}}]`,
			`["1","1","room:1","phx_reply",{"status":"ok","response":{}}]`, `[null,null,"nowhere","said",{}]`,
			`[null,null,5,"said",{}]`,
			`[null,null,"room:1",5,{}]`, `["7","7","room:1","phx_close",{}]`, `["7","7","room:1","phx_error",{}]`,
			`[{},[],"room:1","said",{}]`,
			`[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]`, `[null,null,"room:1","said",null]`,
			`[1,2,"room:1","said",{}]`,
			"[null,null,\"room:1\",\"said\",\"\xff\"]", `[null,null,"room:1","phx_join",{}]`, `[null,null,"room:1","",{}]`,
		}
		for _, g := range garbage {
			k.raw(serializer.OpText, []byte(g))
			k.raw(serializer.OpBinary, []byte(g))
		}
		for i := range 256 {
			k.raw(serializer.OpBinary, []byte{byte(i)})
			k.raw(serializer.OpBinary, []byte{byte(i), 255, 255, 255, 255})
		}
		synctest.Wait()                   // until the backlog is empty
		big := strings.Repeat("x", 4<<20) // larger than MaxBacklog
		k.raw(serializer.OpText, []byte(`[null,null,"room:1","big","`+big+`"]`))
		k.raw(serializer.OpText, []byte(`[null,null,"`+big+`","big",{}]`))
		mustReply(t, ch.Push("echo", nil))
		synctest.Wait() // until the callbacks have run
		if s, _ := ch.State(); s != channel.StateJoined || p.dialCount() != 1 {
			t.Fatalf("%v, %d dials", s, p.dialCount())
		}
		if !slices.Contains(got, "big") || c.Stats().Garbage == 0 {
			t.Fatalf("events %q, %d frames of garbage", got, c.Stats().Garbage)
		}
	})
}
