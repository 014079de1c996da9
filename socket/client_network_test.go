package socket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// cutter is a proxy that cuts every connection soon after it was opened.
type cutter struct {
	l    net.Listener
	to   string
	wg   sync.WaitGroup
	mu   sync.Mutex
	calm bool
	cuts int
}

func startCutter(t testing.TB, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, to: to}
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.carry(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) carry(in *net.TCPConn) {
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		_ = in.Close()
		return
	}
	c.mu.Lock()
	calm := c.calm
	c.mu.Unlock()
	if !calm {
		cut := time.AfterFunc(time.Duration(10+rand.IntN(150))*time.Millisecond, func() {
			c.mu.Lock()
			c.cuts++
			c.mu.Unlock()
			if rand.IntN(2) == 0 {
				_ = in.SetLinger(0) // a reset
			}
			_ = in.Close()
			_ = out.Close()
		})
		defer cut.Stop()
	}
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	wg.Wait()
}

// TestClientBadNetwork cuts connections while many goroutines push, in real time.
func TestClientBadNetwork(t *testing.T) {
	t.Parallel()
	for _, by := range []socket.ClientTransport{socket.TransportWebSocket, socket.TransportLongPoll,
		socket.TransportFallback} {
		t.Run(fmt.Sprint(by), func(t *testing.T) {
			t.Parallel()
			url, _ := startApp(t, "127.0.0.1:0")
			host := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/socket")
			proxy := startCutter(t, host)
			c := socket.NewClient("http://"+proxy.l.Addr().String()+"/socket", &socket.ClientConfig{
				Transport:      by,
				Timeout:        5 * time.Second,
				ReconnectDelay: func(socket.Retry) time.Duration { return time.Millisecond },
				RejoinAfter:    func(int) time.Duration { return time.Millisecond },
			})
			defer closeSocket(t, c)
			c.Connect()
			var mu sync.Mutex
			counts := map[string]int{}
			var wg sync.WaitGroup
			for i := range 4 {
				ch := c.Channel(fmt.Sprint(topic(t), i), nil)
				last := -1
				ch.On("pushed", func(p serializer.Payload) { // in order, without duplicates
					var v struct{ N int }
					if err := p.Decode(&v); err != nil || v.N <= last {
						t.Errorf("%d after %d: %v", v.N, last, err)
					}
					last = v.N
				})
				ch.Join()
				wg.Go(func() {
					for n := range 500 {
						ch.Push("push_me", map[string]int{"n": n})
						answers := make(chan string, 4)
						p := ch.Push("echo", map[string]int{"n": n})
						for _, s := range []string{"ok", "error", push.StatusTimeout, push.StatusFailed} {
							p.Receive(s, func(serializer.Payload) { answers <- s })
						}
						v, err := p.Wait(context.Background())
						how := <-answers
						switch {
						case err == nil && how == "ok" && same(t, v, fmt.Sprintf(`{"n":%d}`, n)):
						case errors.Is(err, push.ErrLost) && how == push.StatusFailed:
							how = "lost"
						case errors.Is(err, push.ErrTimeout) && how == push.StatusTimeout:
						default:
							t.Errorf("%s: %v", how, err)
						}
						mu.Lock()
						counts[how]++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			proxy.mu.Lock()
			proxy.calm = true
			cuts := proxy.cuts
			proxy.mu.Unlock()
			if err := c.Ready(within(t)); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d cuts, %v, %d connections", cuts, counts, c.Stats().Connections)
			for _, ch := range c.Stats().Channels {
				if ch.State == channel.StateClosed {
					t.Errorf("%s is closed", ch.Topic)
				}
			}
		})
	}
}
