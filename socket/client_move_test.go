package socket

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
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

var moveAdvice = advicePayload{AfterMS: 4000, Reason: "restart", WithinMS: 10_000}

// moveBubble runs f with a client that is joined to room:1 with history, on a connection that has
// held for a while.
func moveBubble(t *testing.T, cfg ClientConfig, f func(t *testing.T, p *peer, c *Client, room *follower)) {
	t.Helper()
	ownBubble(t, cfg, func(t *testing.T, p *peer, c *Client, _ *atomic.Int64) {
		own := p.join
		l := &peerLog{p: p, epoch: "e1"}
		p.set(func() {
			p.log = l
			p.join = func(k *peerConn, m *serializer.Message) (string, any) {
				if m.Topic == topicSocket {
					return own(k, m)
				}
				return l.join(k, m)
			}
		})
		connected(t, c)
		room := follow(p, c, channel.ResumeConfig{})
		mustReply(t, room.Join())
		room.want(t, "reset: new")
		time.Sleep(10 * time.Second)
		f(t, p, c, room)
	})
}

// wantMoved checks that the client uses the last of n connections, and has closed the others.
func wantMoved(t *testing.T, p *peer, c *Client, n int) {
	t.Helper()
	synctest.Wait()
	conns := p.conns()
	if len(conns) != n || c.State().Status != StatusConnected {
		t.Fatalf("%d connections, want %d; %v", len(conns), n, c.State())
	}
	for i, k := range conns {
		k.mu.Lock()
		if isLast := i == n-1; k.closed == isLast || (k.joined["room:1"] != "") != isLast {
			t.Errorf("connection %d of %d: closed %v, joined %v", i+1, n, k.closed, k.joined)
		}
		k.mu.Unlock()
	}
}

// TestClientMoves checks that a client moves to another connection when it is advised to, without
// being offline.
func TestClientMoves(t *testing.T) {
	t.Parallel()
	for _, by := range []ClientTransport{TransportWebSocket, TransportLongPoll, TransportFallback} {
		t.Run(fmt.Sprint(by), func(t *testing.T) {
			t.Parallel()
			moveBubble(t, ClientConfig{Transport: by}, func(t *testing.T, p *peer, c *Client, room *follower) {
				room.log.append("a")
				var states []State
				defer c.OnState(func(s State) { states = append(states, s) })()
				first := p.last()
				first.advise(moveAdvice)
				first.advise(moveAdvice) // one move is enough
				room.log.append("b")
				wantMoved(t, p, c, 2)
				if p.gaps()[0] != 10*time.Second { // at once
					t.Errorf("gaps %v", p.gaps())
				}
				mustReply(t, room.Push("echo", 1))
				room.log.append("c")
				room.want(t, "a", "b", "c")
				if info := c.Info(); !info.Server || info.ConnectionID != testConnection {
					t.Errorf("%+v", info)
				}
				time.Sleep(time.Minute)
				wantMoved(t, p, c, 2)
				if len(states) > 0 || !slices.Contains(p.closes(), transport.CloseError{Code: 1000}) {
					t.Errorf("states %v, closes %v", states, p.closes())
				}
				if c.advice != (clientAdvice{}) {
					t.Errorf("the advice for the first connection counts for the second: %v", c.advice)
				}
				if s := c.Stats(); s.Connections != 2 {
					t.Errorf("%+v", s)
				}
				if n := countWith(p.got(), "$socket time"); n != 4 { // two on each connection
					t.Errorf("%d samples of the clock", n)
				}
			})
		})
	}
}

// TestClientMovesBetweenPushes checks that the client waits for the replies to its pushes, but not
// beyond the time of the advice.
func TestClientMovesBetweenPushes(t *testing.T) {
	t.Parallel()
	moveBubble(t, ClientConfig{Timeout: time.Minute}, func(t *testing.T, p *peer, c *Client, room *follower) {
		later := room.Push("later", 1) // answered after 500 ms
		p.last().advise(moveAdvice)
		time.Sleep(499 * time.Millisecond)
		if n := len(p.conns()); n != 2 || c.conn.t != p.conns()[0] {
			t.Errorf("%d connections, or the client moved early", n)
		}
		mustReply(t, later)
		wantMoved(t, p, c, 2)

		time.Sleep(10 * time.Second)
		late := room.Push("late", 2) // answered after 15 s
		start := time.Now()
		p.last().advise(moveAdvice)
		mustFail(t, late, push.ErrLost)
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("moved after %v", d)
		}
		wantMoved(t, p, c, 3)
		if n, m := p.times("1"), p.times("2"); n != 1 || m != 1 {
			t.Errorf("handled %d and %d times", n, m)
		}
	})
}

// TestClientMoveKeepsUnsentPushes checks that pushes that were not written before a move are sent
// once, after it.
func TestClientMoveKeepsUnsentPushes(t *testing.T) {
	t.Parallel()
	moveBubble(t, ClientConfig{Timeout: time.Minute}, func(t *testing.T, p *peer, c *Client, room *follower) {
		first := p.last()
		first.change(func() { first.stallOut = true })
		var all []*push.Push
		for i := range 10 {
			all = append(all, room.Push("echo", fmt.Sprint(i)))
			synctest.Wait()
		}
		first.advise(advicePayload{WithinMS: 3000})
		time.Sleep(4 * time.Second)
		answered := 0
		for i, x := range all {
			_, err := x.Wait(t.Context())
			if n := p.times(fmt.Sprintf("%q", fmt.Sprint(i))); err == nil && n == 1 {
				answered++
			} else if !errors.Is(err, push.ErrLost) || n != 0 {
				t.Errorf("push %d: %v, handled %d times", i, err, n)
			}
		}
		if answered != 9 { // the write of the first one had begun
			t.Errorf("%d answered", answered)
		}
		first.change(func() { first.stallOut = false })
		wantMoved(t, p, c, 2)
	})
}

// TestClientMoveFails checks that the current connection serves when the other one cannot be used,
// and that the client tries again until the time of the advice is over.
func TestClientMoveFails(t *testing.T) {
	t.Parallel()
	isNew := func(p *peer, f func(k *peerConn)) {
		first := p.last()
		p.prepare = func(k *peerConn) {
			if k != first {
				f(k)
			}
		}
	}
	for name, tt := range map[string]struct {
		fault  func(p *peer)
		tries  int  // attempts until the connection ends
		isOpen bool // the other connection is open then, and the client uses it
	}{
		"unreachable":  {func(p *peer) { refuseAll(p, errReset) }, 12, false},
		"refused":      {func(p *peer) { refuseAll(p, busy(403, "")) }, 1, false},
		"draining":     {func(p *peer) { refuseAll(p, busy(503, "4")) }, 3, false},
		"no answer":    {func(p *peer) { isNew(p, func(k *peerConn) { k.lose = true }) }, 4, true},
		"nothing read": {func(p *peer) { isNew(p, func(k *peerConn) { k.stallOut = true }) }, 4, true},
		"reset":        {func(p *peer) { isNew(p, func(k *peerConn) { k.err = errReset }) }, 12, false},
		"hangs": {func(p *peer) {
			p.refuse = func(ctx context.Context, _ ClientTransport, _ int) error { <-ctx.Done(); return ctx.Err() }
		}, 1, false},
		"a flood of messages": {func(p *peer) {
			isNew(p, func(k *peerConn) {
				k.lose = true
				for range 100 {
					k.in = append(k.in, peerFrame{op: serializer.OpText, data: []byte(`[null,null,"$socket","x",{}]`)})
				}
			})
		}, 12, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			moveBubble(t, ClientConfig{Timeout: 3 * time.Second}, func(t *testing.T, p *peer, c *Client, room *follower) {
				first, dials := p.last(), p.dialCount()
				tt.fault(p)
				first.advise(moveAdvice)
				for i := range 10 {
					mustReply(t, room.Push("echo", i))
					room.log.append(fmt.Sprint(i))
					time.Sleep(time.Second)
				}
				room.want(t, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
				if n := p.dialCount() - dials; n < 1 || n > tt.tries {
					t.Errorf("%d attempts, want at most %d", n, tt.tries)
				}
				if c.State().Status != StatusConnected || c.conn.t != first {
					t.Errorf("the first connection is not used: %v", c.State())
				}
				if least := min(tt.tries, 2); p.dialCount()-dials < least {
					t.Errorf("%d attempts, want at least %d", p.dialCount()-dials, least)
				}
				if tried := p.dialCount(); !tt.isOpen { // there is no attempt after the time of the advice
					time.Sleep(30 * time.Second)
					if n := p.dialCount() - tried; n != 0 {
						t.Errorf("%d attempts after the time of the advice", n)
					}
				}
				p.refuse, p.prepare = nil, nil
				end, dials := time.Now(), p.dialCount()
				first.end(errRestart)
				for _, k := range p.conns()[1:] {
					k.change(func() { k.lose, k.stallOut = false, false })
				}
				time.Sleep(4*time.Second + time.Millisecond)
				n := p.dialCount() - dials
				if d := p.at[len(p.at)-1].Sub(end); tt.isOpen && n != 0 || !tt.isOpen && (n != 1 || d != 4*time.Second) {
					t.Errorf("after the end, the client makes %d attempts, the last after %v", n, d)
				}
				time.Sleep(5 * time.Minute)
				wantMoved(t, p, c, len(p.conns()))
				mustReply(t, room.Push("echo", "x"))
			})
		})
	}
}

func refuseAll(p *peer, err error) {
	p.refuse = func(context.Context, ClientTransport, int) error { return err }
}

// TestClientLostDuringMove ends the first connection in each phase of a move. The client uses the
// other connection if it is open, and otherwise reconnects as advised.
func TestClientLostDuringMove(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		at      time.Duration // after the advice; the other connection is open after 1 s, and answers after 2 s
		waiting bool          // a push has no reply yet, so the client does not move by itself
		dials   int
	}{
		"before the attempt succeeds": {500 * time.Millisecond, false, 3},
		"before the answer":           {1500 * time.Millisecond, false, 2},
		"while it waits":              {5 * time.Second, true, 2},
	} {
		for _, err := range []error{errRestart, errReset} {
			t.Run(fmt.Sprint(name, " ", err), func(t *testing.T) {
				t.Parallel()
				moveBubble(t, ClientConfig{Timeout: time.Minute}, func(t *testing.T, p *peer, c *Client, room *follower) {
					first := p.last()
					p.refuse = func(ctx context.Context, _ ClientTransport, _ int) error {
						wait := time.NewTimer(time.Second)
						defer wait.Stop()
						select {
						case <-wait.C:
							return nil
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					p.prepare = func(k *peerConn) { k.slow = time.Second }
					var late *push.Push
					if tt.waiting {
						late = room.Push("late", 1)
					}
					first.advise(moveAdvice)
					time.Sleep(tt.at)
					room.log.append("a")
					first.cut(err)
					room.log.append("b")
					synctest.Wait()
					if isOpen := tt.dials == 2; (c.State().Status == StatusConnected) != isOpen {
						t.Errorf("%v", c.State())
					}
					if late != nil {
						mustFail(t, late, push.ErrLost)
					}
					time.Sleep(time.Minute)
					mustReply(t, room.Push("echo", 1))
					room.want(t, "a", "b")
					wantMoved(t, p, c, 2)
					if n := p.dialCount(); n != tt.dials {
						t.Errorf("%d attempts", n)
					}
					if !c.Info().Server {
						t.Errorf("%+v", c.Info())
					}
				})
			})
		}
	}
}

// TestClientMovesAgain checks that advice which the other connection receives before it is used
// counts, and that a client that has just connected does not move before its connection is stable.
func TestClientMovesAgain(t *testing.T) {
	t.Parallel()
	moveBubble(t, ClientConfig{Timeout: time.Minute}, func(t *testing.T, p *peer, c *Client, room *follower) {
		late := room.Push("late", 1)
		p.last().advise(moveAdvice)
		synctest.Wait()
		second := p.last()
		second.advise(moveAdvice)
		synctest.Wait()
		if n := len(p.conns()); n != 2 {
			t.Fatalf("%d connections", n)
		}
		mustFail(t, late, push.ErrLost)
		wantMoved(t, p, c, 3) // the other connection is older than 5 s then
		p.last().advise(moveAdvice)
		time.Sleep(4 * time.Second)
		wantMoved(t, p, c, 3)
		time.Sleep(time.Second)
		wantMoved(t, p, c, 4)
		mustReply(t, room.Push("echo", 1))
	})
}

// TestClientMoveToServerWithoutSocketChannel checks that the client also moves to a server that
// does not have $socket.
func TestClientMoveToServerWithoutSocketChannel(t *testing.T) {
	t.Parallel()
	moveBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client, room *follower) {
		p.set(func() { p.join = room.log.joinRooms })
		p.last().advise(moveAdvice)
		wantMoved(t, p, c, 2)
		if c.Info().Server {
			t.Errorf("%+v", c.Info())
		}
		mustReply(t, room.Push("echo", 1))
	})
}

// joinRooms is for the peer.join of a server without $socket.
func (l *peerLog) joinRooms(k *peerConn, m *serializer.Message) (status string, payload any) {
	if m.Topic == topicSocket {
		return "error", map[string]string{"reason": "unmatched topic"}
	}
	return l.join(k, m)
}

// TestClientEndsDuringMove pauses, and closes, a client in each phase of a move. Nothing is left
// open.
func TestClientEndsDuringMove(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second} {
		for _, closes := range []bool{false, true} {
			t.Run(fmt.Sprint(at, closes), func(t *testing.T) {
				t.Parallel()
				moveBubble(t, ClientConfig{Timeout: time.Minute}, func(t *testing.T, p *peer, c *Client, room *follower) {
					p.refuse = func(context.Context, ClientTransport, int) error { time.Sleep(time.Second); return nil }
					p.prepare = func(k *peerConn) { k.slow = time.Second }
					room.Push("late", 1)
					p.last().advise(moveAdvice)
					time.Sleep(at)
					if closes {
						closeClient(t, c)
					} else {
						c.Pause()
					}
					time.Sleep(time.Minute)
					for i, k := range p.conns() {
						k.mu.Lock()
						if !k.closed {
							t.Errorf("connection %d of %d is open", i+1, len(p.live))
						}
						k.mu.Unlock()
					}
					if closes {
						return
					}
					c.Connect()
					time.Sleep(time.Minute)
					wantMoved(t, p, c, len(p.conns()))
				})
			})
		}
	}
}

// TestClientMoveDropsUpgrade checks that a client on long poll that has a WebSocket in reserve does
// not use that any more when it moves.
func TestClientMoveDropsUpgrade(t *testing.T) {
	t.Parallel()
	moveBubble(t, ClientConfig{Transport: TransportFallback, Timeout: time.Minute}, func(
		t *testing.T, p *peer, c *Client, room *follower,
	) {
		p.refuse = func(_ context.Context, by ClientTransport, _ int) error {
			if by == TransportWebSocket {
				return errReset
			}
			return nil
		}
		p.last().cut(errReset)
		time.Sleep(10 * time.Second)
		if c.State().Transport != clientLongPoll {
			t.Fatal(c.State())
		}
		p.refuse = nil
		p.set(func() { p.ignore = "never" })
		unanswered := room.PushWithTimeout("never", 1, time.Minute)
		time.Sleep(clientProbeFirst)
		synctest.Wait()
		reserve := p.last()
		if c.upgrade.conn != reserve {
			t.Fatal("there is no WebSocket in reserve")
		}
		p.conns()[1].advise(advicePayload{WithinMS: 1000})
		mustFail(t, unanswered, push.ErrLost)
		wantMoved(t, p, c, 4)
		if s := c.State(); s.Transport != clientWebSocket {
			t.Errorf("%v", s)
		}
	})
}
