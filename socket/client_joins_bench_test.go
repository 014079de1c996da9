package socket_test

import (
	"bytes"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
)

// joiner is a connection that accepts every join.
type joiner struct {
	in   chan []byte
	once sync.Once
	done chan struct{}
}

var errCut = errors.New("connection reset by peer")

func (k *joiner) Read() (serializer.Op, []byte, error) {
	select {
	case data := <-k.in:
		return serializer.OpText, data, nil
	case <-k.done:
		return 0, nil, errCut
	}
}

// Write replies to ["1","7","t1",… with ["1","7","t1","phx_reply",….
func (k *joiner) Write(frames ...*serializer.Frame) error {
	for _, f := range frames {
		end := 0
		for range 6 { // the quotation marks of three strings
			end += bytes.IndexByte(f.Data[end:], '"') + 1
		}
		reply := append(make([]byte, 0, 80), f.Data[:end]...)
		select {
		case k.in <- append(reply, `,"phx_reply",{"status":"ok","response":{}}]`...):
		case <-k.done:
			return errCut
		}
	}
	return nil
}

func (k *joiner) Close(int, string) error              { k.once.Do(func() { close(k.done) }); return nil }
func (k *joiner) Batch(frames []*serializer.Frame) int { return len(frames) }
func (k *joiner) Bytes() (in, out uint64)              { return 0, 0 }

// BenchmarkClientRejoins cuts the connection of a client with as many channels as the client joins
// without a pause, and waits until all are joined again.
func BenchmarkClientRejoins(b *testing.B) {
	const channels = 800
	var last atomic.Pointer[joiner]
	cfg := &socket.ClientConfig{
		NoSocketChannel: true,
		ReconnectDelay:  func(socket.Retry) time.Duration { return 0 },
	}
	c := socket.NewClientOver(cfg, func() transport.ClientConn {
		k := &joiner{in: make(chan []byte, 1024), done: make(chan struct{})}
		last.Store(k)
		return k
	})
	b.Cleanup(func() { closeSocket(b, c) })
	joins := make(chan struct{}, channels)
	params := serializer.Value(map[string]int{"n": 1})
	for i := range channels {
		var ch *channel.Client = c.Channel("t"+strconv.Itoa(i), params)
		ch.OnJoin(func(serializer.Payload) { joins <- struct{}{} })
		ch.Join()
	}
	c.Connect()
	joinAll := func() {
		for range channels {
			<-joins
		}
	}
	joinAll()
	b.ReportAllocs()
	for b.Loop() {
		_ = last.Load().Close(0, "")
		joinAll()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*channels), "µs/join")
}
