package socket

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
)

// stop stops the client's loop for d, as if the process were stopped: its timers are late.
func stop(c *Client, d time.Duration) {
	c.post(clientTask(func() { time.Sleep(d) })) // in the virtual time of the test
	time.Sleep(d)
	synctest.Wait()
}

// TestClientStopped checks that a process that was stopped checks its connection by one heartbeat,
// and that timeouts that ran out meanwhile wait for what was received.
func TestClientStopped(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.slow = 2 * time.Second }
		connected(t, c)
		ch := joined(t, c, "room:1")
		for _, d := range []time.Duration{20 * time.Second, time.Hour} {
			reply, late := ch.Push("echo", 1), ch.Push("never", nil)
			time.Sleep(time.Second)
			p.set(func() { p.frames = nil })
			stop(c, d)
			mustReply(t, reply)
			began := time.Now()
			mustFail(t, late, push.ErrTimeout)
			if took := time.Since(began); took > clientWakeTimeout {
				t.Errorf("stopped for %v: the timeout came after %v more", d, took)
			}
			time.Sleep(10 * time.Second)
			if got := p.got(); len(got) != 1 || !strings.Contains(got[0], "heartbeat") {
				t.Errorf("stopped for %v: sent %q", d, got)
			}
			if n := c.Stats().Connections; n != 1 {
				t.Fatalf("stopped for %v: %d connections", d, n)
			}
		}
	})
}

// TestClientStoppedInHeartbeat checks that the reply to a heartbeat counts that arrived while the
// process was stopped, and that a connection that is dead is noticed within seconds.
func TestClientStoppedInHeartbeat(t *testing.T) {
	t.Parallel()
	for _, dead := range []bool{false, true} {
		clientBubble(t, ClientConfig{HeartbeatTimeout: 20 * time.Second}, func(t *testing.T, p *peer, c *Client) {
			p.prepare = func(k *peerConn) { k.slow = 5 * time.Second }
			connected(t, c)
			time.Sleep(31 * time.Second)
			k := p.last()
			if dead {
				k.change(func() { k.stallIn, k.swallow = true, true })
			}
			stop(c, time.Minute)
			time.Sleep(clientClockCheck + clientWakeTimeout + 10*time.Millisecond)
			if n := c.Stats().Connections; (n == 2) != dead {
				t.Errorf("dead %v: %d connections", dead, n)
			}
		})
	}
}

// TestClientWakeJoinAndLeave checks that joins and leaves that ran out while the process was
// stopped wait for their replies as well.
func TestClientWakeJoinAndLeave(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.prepare = func(k *peerConn) { k.slow = time.Second }
		connected(t, c)
		ch := c.Channel("room:1", nil)
		join := ch.Join()
		synctest.Wait()
		stop(c, 30*time.Second)
		mustReply(t, join)
		leave := ch.Leave()
		synctest.Wait()
		stop(c, 30*time.Second)
		mustReply(t, leave)
	})
}

// TestClientWake checks what Wake does in each state.
func TestClientWake(t *testing.T) {
	t.Parallel()
	t.Run("waiting", func(t *testing.T) {
		t.Parallel()
		wakeRefused(t, errReset, func(t *testing.T, p *peer, c *Client) {
			time.Sleep(time.Hour) // the attempts are 5 s apart
			n, tries := p.dialCount(), c.State().Tries
			c.Wake()
			time.Sleep(100 * time.Millisecond) // the back-off begins again
			if got := p.dialCount() - n; got != 3 {
				t.Errorf("%d attempts", got)
			}
			if s := c.State(); s.Tries != tries+3 {
				t.Errorf("%d tries after %d", s.Tries, tries)
			}
		})
	})
	t.Run("the server has asked to wait", func(t *testing.T) {
		t.Parallel()
		wakeRefused(t, busy(503, "300"), func(t *testing.T, p *peer, c *Client) {
			time.Sleep(time.Second)
			c.Wake()
			time.Sleep(4 * time.Minute)
			if n := p.dialCount(); n != 1 {
				t.Errorf("%d attempts before the time", n)
			}
			time.Sleep(time.Minute)
			if n := p.dialCount(); n != 2 {
				t.Errorf("%d attempts after the time", n)
			}
		})
	})
	t.Run("denied", func(t *testing.T) {
		t.Parallel()
		wakeRefused(t, denied(403), func(t *testing.T, p *peer, c *Client) {
			time.Sleep(time.Hour) // the attempts are 60 s apart
			n := p.dialCount()
			c.Wake()
			synctest.Wait()
			if got := p.dialCount() - n; got != 1 {
				t.Errorf("%d attempts", got)
			}
			time.Sleep(11 * time.Second) // the delays begin again
			if got := p.dialCount() - n; got != 2 {
				t.Errorf("%d attempts", got)
			}
		})
	})
	t.Run("connecting", func(t *testing.T) {
		t.Parallel()
		clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
			p.refuse = func(ctx context.Context, _ ClientTransport, n int) error {
				if n == 1 {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			c.Connect()
			time.Sleep(10 * time.Second)
			for range 3 {
				c.Wake()
				synctest.Wait()
			}
			if n := p.dialCount(); n != 1 {
				t.Fatalf("%d attempts, want that one goes on", n)
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if s := c.State(); s.Status != StatusConnected || p.gaps()[0] != 20*time.Second {
				t.Errorf("%v, after %v", s, p.gaps())
			}
		})
	})
	t.Run("rejoin", func(t *testing.T) {
		t.Parallel()
		clientBubble(t, ClientConfig{RejoinAfter: func(int) time.Duration { return time.Hour }},
			func(t *testing.T, _ *peer, c *Client) {
				connected(t, c)
				ch := joined(t, c, "room:1")
				ch.Push("crash", nil)
				synctest.Wait()
				if s, _ := ch.State(); s != channel.StateErrored {
					t.Fatal(s)
				}
				c.Wake()
				synctest.Wait()
				if s, _ := ch.State(); s != channel.StateJoined {
					t.Error(s)
				}
			})
	})
	t.Run("paused", func(t *testing.T) {
		t.Parallel()
		clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
			c.Wake()
			connected(t, c)
			c.Pause()
			c.Wake()
			time.Sleep(time.Hour)
			if n := p.dialCount(); n != 1 {
				t.Errorf("%d attempts", n)
			}
		})
	})
}

// wakeRefused runs f with a client whose attempts fail.
func wakeRefused(t *testing.T, err error, f func(t *testing.T, p *peer, c *Client)) {
	t.Helper()
	params := func(context.Context) (any, error) { return nil, nil }
	clientBubble(t, ClientConfig{Params: params}, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(context.Context, ClientTransport, int) error { return err }
		c.Connect()
		f(t, p, c)
	})
}

// TestClientWakeOften checks that Wake has an effect at most once a second, and that the last call
// has one.
func TestClientWakeOften(t *testing.T) {
	t.Parallel()
	cfg := ClientConfig{ReconnectDelay: func(Retry) time.Duration { return time.Hour }}
	clientBubble(t, cfg, func(t *testing.T, p *peer, c *Client) {
		p.refuse = func(context.Context, ClientTransport, int) error { return errReset }
		c.Connect()
		synctest.Wait()
		for range 30 { // for 3 s
			c.Wake()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := p.dialCount(); n != 5 {
			t.Errorf("%d attempts, want the first, and one for each second and for the last call", n)
		}
	})
}

// TestClientWakeAfter checks that the machine's suspension counts from WakeAfter, and that a
// negative time turns the detection off.
func TestClientWakeAfter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		after, slept time.Duration
		dials        int
	}{{0, 9 * time.Second, 1}, {0, 11 * time.Second, 2}, {time.Minute, time.Minute, 1}, {-1, 10 * time.Hour, 1}} {
		cfg := ClientConfig{WakeAfter: tt.after, ReconnectDelay: func(Retry) time.Duration { return 20 * time.Hour }}
		wakeBubble(t, cfg, func(t *testing.T, p *peer, c *Client, jump func(time.Duration)) {
			p.refuse = func(context.Context, ClientTransport, int) error { return errReset }
			c.Connect()
			time.Sleep(time.Second)
			jump(tt.slept)
			time.Sleep(2 * clientClockCheck)
			if n := p.dialCount(); n != tt.dials {
				t.Errorf("WakeAfter %v, slept %v: %d attempts", tt.after, tt.slept, n)
			}
			stop(c, 30*time.Second)
			time.Sleep(time.Second)
			if n := p.dialCount() - tt.dials; n == 1 != (tt.after == 0) {
				t.Errorf("WakeAfter %v: %d attempts after the process was stopped", tt.after, n)
			}
		})
	}
}

// TestClientWithoutHeartbeats checks that a negative interval sends none, over any time, and that
// Wake sends one nevertheless.
func TestClientWithoutHeartbeats(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{HeartbeatInterval: -1}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		for range 2 {
			time.Sleep(time.Hour)
			if got := p.got(); len(got) != 0 {
				t.Fatalf("sent %q", got)
			}
			c.Wake()
			time.Sleep(time.Second)
			if got := p.got(); len(got) != 1 {
				t.Fatalf("sent %q", got)
			}
			p.set(func() { p.frames = nil })
		}
		if cfg := p.dialConfigs()[0]; cfg.PollTimeout != 30*time.Second {
			t.Errorf("a poll may take %v", cfg.PollTimeout)
		}
		k := p.last()
		k.change(func() { k.stallIn, k.swallow = true, true })
		c.Wake()
		time.Sleep(clientWakeTimeout + 100*time.Millisecond)
		if n := c.Stats().Connections; n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}
