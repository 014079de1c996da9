package socket

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
)

// TestClientLives joins one channel again after each way in which its life ends.
func TestClientLives(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{RejoinAfter: func(tries int) time.Duration { return -1 }},
		func(t *testing.T, p *peer, c *Client) {
			connected(t, c)
			ch := c.Channel("room:1", nil)
			var closed []error
			ch.OnClose(func(err error) { closed = append(closed, err) })
			said := 0
			ch.On("said", func(serializer.Payload) { said++ })
			for round, end := range []struct {
				by    func()
				cause error
			}{
				{func() { mustReply(t, ch.Leave()) }, channel.ErrLeft},
				{func() { mustFail(t, ch.Push("stop", nil), channel.ErrClosed) }, nil},
				{func() { mustFail(t, ch.Push("crash", nil), push.ErrLost) }, nil},
			} {
				join := ch.Join()
				if ch.Join() != join {
					t.Fatal("a Join of a live channel returned another push")
				}
				done, events := ch.Done(), ch.Events()
				mustReply(t, join)
				p.broadcast("room:1", "said", nil)
				mustReply(t, ch.Push("echo", round))
				select {
				case <-done:
					t.Fatal("done although it is joined")
				default:
				}
				end.by()
				<-done
				n := 0
				for range events {
					n++
				}
				synctest.Wait()
				if n != 1 || said != round+1 || len(closed) != round+1 {
					t.Fatalf("life %d: %d events, %d by callback, %d ends", round+1, n, said, len(closed))
				}
				if s, err := ch.State(); s != channel.StateClosed || end.cause != nil && !errors.Is(err, end.cause) {
					t.Fatal(s, err)
				}
				mustFail(t, ch.Push("echo", nil), channel.ErrClosed)
			}
		})
}

// TestClientJoinWhileLeaving joins the same channel while it is leaving. Both lives get all of
// their answers.
func TestClientJoinWhileLeaving(t *testing.T) {
	t.Parallel()
	transports(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		p.set(func() { p.busy = time.Second })
		connected(t, c)
		ch := joined(t, c, "room:1")
		first := ch.Push("echo", 1)
		leave := ch.Leave()
		done := ch.Done()
		join := ch.Join()
		if ch.Done() == done {
			t.Fatal("Done is that of the life that ends")
		}
		events := ch.Events("shout")
		second := ch.Push("echo", 2)
		ch.Push("shout", 3)
		mustFail(t, c.Channel("room:1", nil).Join(), channel.ErrDuplicate)
		mustReply(t, first)
		mustReply(t, leave)
		<-done
		mustReply(t, join)
		mustReply(t, second)
		for m := range events {
			if jsonOf(m.Payload) != "3" {
				t.Fatal(jsonOf(m.Payload))
			}
			break
		}
		leave, again := ch.Leave(), ch.Join()
		both := ch.Leave()
		mustFail(t, again, channel.ErrLeft)
		mustReply(t, leave)
		mustReply(t, both)
		<-ch.Done()
		if s, err := ch.State(); s != channel.StateClosed || !errors.Is(err, channel.ErrLeft) {
			t.Fatal(s, err)
		}
	})
}

// TestClientLifeAfterClose checks that the end of the socket is the last one.
func TestClientLifeAfterClose(t *testing.T) {
	t.Parallel()
	clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
		connected(t, c)
		ch := joined(t, c, "room:1")
		closeClient(t, c)
		<-ch.Done()
		mustFail(t, ch.Join(), channel.ErrClosed)
		<-ch.Done()
		for range ch.Events() { // ends immediately
			t.Fatal("an event of a closed socket")
		}
	})
}

// TestClientLivesAtRandom calls Join, Leave and Push from several goroutines while the connection
// is cut and the server ends the channel. Each push must be answered once, each life must end once,
// and the channel must work afterwards.
func TestClientLivesAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			clientBubble(t, ClientConfig{}, func(t *testing.T, p *peer, c *Client) {
				p.prepare = func(k *peerConn) { k.slow = 5 * time.Millisecond }
				connected(t, c)
				ch := c.Channel("room:1", nil)
				var mu sync.Mutex
				var pushes []*push.Push
				var wg sync.WaitGroup
				for g := range uint64(4) {
					r := rand.New(rand.NewPCG(seed, g))
					wg.Go(func() {
						for range 100 {
							var one *push.Push
							switch r.IntN(12) {
							case 0, 1, 2:
								one = ch.Join()
							case 3, 4:
								one = ch.Leave()
							case 5:
								one = ch.Push("stop", nil)
							case 6:
								p.last().cut(errReset)
								continue
							default:
								one = ch.Push("echo", g)
							}
							mu.Lock()
							pushes = append(pushes, one)
							mu.Unlock()
							time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond) // of virtual time
						}
					})
				}
				wg.Wait()
				for i, one := range pushes {
					if _, err := one.Wait(t.Context()); err != nil && t.Context().Err() != nil {
						t.Fatalf("push %d of %d has no answer", i, len(pushes))
					}
				}
				ch.Leave()
				mustReply(t, ch.Join())
				mustReply(t, ch.Push("echo", "at last"))
				mustReply(t, ch.Leave())
				<-ch.Done()
				if s := ch.Stats(); s.Unanswered != 0 || s.Queued != 0 {
					t.Fatalf("%+v", s)
				}
			})
		})
	}
}
