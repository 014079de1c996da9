package socket_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// These tests hold the budgets of a client: memory, and allocations without those of the transport.
const (
	maxPushAllocs      = 9
	maxEventAllocs     = 2
	maxClientIdleBytes = 40_000
)

// canned is a connection that replies to every push with the same message, and on which tests
// inject messages.
type canned struct {
	in   chan []byte
	once sync.Once
	done chan struct{}
}

func newCanned() *canned { return &canned{in: make(chan []byte, 1024), done: make(chan struct{})} }

func (k *canned) Read() (serializer.Op, []byte, error) {
	select {
	case data := <-k.in:
		return serializer.OpText, data, nil
	case <-k.done:
		return 0, nil, transport.ErrClosed
	}
}

// Write replies to ["1","7","t",… with ["1","7","t","phx_reply",….
func (k *canned) Write(frames ...*serializer.Frame) error {
	for _, f := range frames {
		end := bytes.IndexByte(f.Data, 't') + 2 // the topic is t
		k.in <- append(append(make([]byte, 0, 80), f.Data[:end]...), `,"phx_reply",{"status":"ok","response":{}}]`...)
	}
	return nil
}

func (k *canned) Close(int, string) error              { k.once.Do(func() { close(k.done) }); return nil }
func (k *canned) Batch(frames []*serializer.Frame) int { return len(frames) }

func (k *canned) Bytes() (in, out uint64) { return 0, 0 }

// cannedClient returns a client on such a connection, with the channel t joined.
func cannedClient(t testing.TB) (*canned, *channel.Client) {
	t.Helper()
	k := newCanned()
	c := socket.NewClientOver(&socket.ClientConfig{NoSocketChannel: true}, func() transport.ClientConn { return k })
	t.Cleanup(func() { closeSocket(t, c) })
	c.Connect()
	return k, join(t, c, "t", nil)
}

// perRun returns the allocations of each of n calls of f.
func perRun(n int, f func()) float64 {
	for range n {
		f()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n)
}

func TestClientAllocations(t *testing.T) {
	if raceEnabled {
		return
	}
	k, ch := cannedClient(t)
	body := serializer.Value(map[string]string{"body": "hello"})
	body, err := body.Encoded()
	if err != nil {
		t.Fatal(err)
	}
	per := perRun(2000, func() {
		if _, err := ch.Push("echo", body).Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
	per-- // the reply's allocation, which the test makes
	t.Logf("%.2f allocations for a push, its reply and the wait for it", per)
	if per > maxPushAllocs {
		t.Errorf("%.2f allocations for a push, budget %d", per, maxPushAllocs)
	}

	event := []byte(`[null,null,"t","said",{"body":"hello, world"}]`)
	for _, how := range []string{"callback", "iterator"} {
		got := make(chan struct{}, 1024)
		off := func() {}
		ctx, cancel := context.WithCancel(context.Background())
		if how == "callback" {
			off = ch.On("said", func(serializer.Payload) { got <- struct{}{} })
		} else {
			events := ch.EventsContext(ctx, "said")
			go func() {
				for range events {
					got <- struct{}{}
				}
			}()
		}
		const burst = 50
		per := perRun(100, func() {
			for range burst {
				k.in <- event
			}
			for range burst {
				<-got
			}
		}) / burst
		t.Logf("%.2f allocations for an event received by %s", per, how)
		if per > maxEventAllocs {
			t.Errorf("%.2f allocations for an event received by %s, budget %d", per, how, maxEventAllocs)
		}
		off()
		cancel()
	}
}

// bareServer accepts WebSockets and replies to the join of each. It has no goroutine and no buffer
// per connection, so that a test measures the client only.
func bareServer(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			n := 0
			for !bytes.Contains(buf[:n], []byte("\r\n\r\n")) {
				m, err := conn.Read(buf[n:])
				if err != nil {
					return
				}
				n += m
			}
			const name = "\r\nsec-websocket-key: "
			key, _, _ := bytes.Cut(buf[bytes.Index(bytes.ToLower(buf[:n]), []byte(name))+len(name):n], []byte("\r\n"))
			sum := sha1.Sum(append(key, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
			_, _ = fmt.Fprintf(conn,
				"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
				base64.StdEncoding.EncodeToString(sum[:]))
			for _, reply := range []string{
				`["1","1","$socket","phx_reply",{"status":"ok","response":{"id":"c","now":1}}]`,
				`["2","2","t","phx_reply",{"status":"ok","response":{}}]`,
			} {
				if _, err := io.ReadFull(conn, buf[:6]); err != nil { // the join: its header, and then its body
					return
				}
				if _, err := io.ReadFull(conn, buf[:buf[1]&0x7f]); err != nil {
					return
				}
				_, _ = conn.Write(append([]byte{0x81, byte(len(reply))}, reply...))
			}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return "ws://" + l.Addr().String() + "/socket"
}

// idleClients connects n clients with a channel each and returns the bytes and goroutines of one.
func idleClients(t testing.TB, n int) (perClient uint64, goroutines float64) {
	t.Helper()
	url := bareServer(t)
	before, others := inUse(), runtime.NumGoroutine()
	clients := make([]*socket.Client, n)
	for i := range clients {
		c, err := socket.Dial(within(t), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		join(t, c, "t", nil)
		clients[i] = c
	}
	perClient = (inUse() - before) / uint64(n)
	goroutines = float64(runtime.NumGoroutine()-others) / float64(n)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() { _ = c.Close(gone) }) // the bare server sends no close frame
	}
	wg.Wait()
	return perClient, goroutines
}

func TestClientIdleMemory(t *testing.T) {
	if raceEnabled {
		return
	}
	per, goroutines := idleClients(t, 300)
	t.Logf("%d bytes and %.2f goroutines for an idle client with one channel", per, goroutines)
	if per > maxClientIdleBytes {
		t.Errorf("%d bytes for an idle client, budget %d", per, maxClientIdleBytes)
	}
	if goroutines > 2.1 {
		t.Errorf("%.2f goroutines for an idle client", goroutines)
	}
}

func BenchmarkClientIdle(b *testing.B) {
	for b.Loop() {
		per, goroutines := idleClients(b, 300)
		b.ReportMetric(float64(per), "B/client")
		b.ReportMetric(goroutines, "goroutines/client")
	}
}

// BenchmarkClientEcho measures the round trip of a push to the conformance application in the same
// process.
func BenchmarkClientEcho(b *testing.B) {
	for _, by := range []socket.ClientTransport{socket.TransportWebSocket, socket.TransportLongPoll} {
		for _, s := range serializer.Default() {
			b.Run([]string{"websocket", "longpoll"}[by]+"/"+serializer.Vsn(s), func(b *testing.B) {
				url, _ := startApp(b, "127.0.0.1:0")
				c := suite{url: url, own: true, cfg: socket.ClientConfig{Transport: by, Serializer: s}}.dial(b, nil)
				ch := join(b, c, "bench:1", nil)
				body := map[string]string{"body": "hello, world"}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := ch.Push("echo", body).Wait(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkClientPush measures pushes, 256 of them in flight, without a network.
func BenchmarkClientPush(b *testing.B) {
	_, ch := cannedClient(b)
	body := serializer.Value(map[string]string{"body": "hello, world"})
	window := make(chan *push.Push, 256)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range window {
			if _, err := p.Wait(context.Background()); err != nil {
				b.Error(err)
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		window <- ch.Push("echo", body)
	}
	close(window)
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pushes/s")
}

// BenchmarkClientEvents measures received events, without a network.
func BenchmarkClientEvents(b *testing.B) {
	for _, how := range []string{"callback", "iterator"} {
		b.Run(how, func(b *testing.B) {
			k, ch := cannedClient(b)
			got := make(chan struct{}, 1024)
			if how == "callback" {
				ch.On("said", func(serializer.Payload) { got <- struct{}{} })
			} else {
				events := ch.Events("said")
				go func() {
					for range events {
						got <- struct{}{}
					}
				}()
			}
			event := []byte(`[null,null,"t","said",{"body":"hello, world","n":` + strconv.Itoa(b.N) + `}]`)
			b.ReportAllocs()
			waiting := 0
			for b.Loop() {
				k.in <- event
				if waiting++; waiting == 512 {
					<-got
					waiting--
				}
			}
			for ; waiting > 0; waiting-- {
				<-got
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
