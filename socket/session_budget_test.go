//go:build !race

package socket

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// discardConn is a connection that drops the frames that it is to send.
type discardConn struct{}

func (discardConn) Send(*serializer.Frame, transport.Delivery) error { return nil }
func (discardConn) Congested(func()) bool                            { return false }
func (discardConn) Drained(func()) bool                              { return true }
func (discardConn) Close(int, string)                                {}

// TestReceiveAllocations checks the allocations for a message to a joined channel: its parsed form,
// and the queue of the mailbox, which an idle channel does not keep. The message itself stays on
// the stack of the connection's reader.
func TestReceiveAllocations(t *testing.T) { // not parallel: it counts the allocations of all goroutines
	handled := make(chan struct{})
	h := NewHandler(Config{Channels: channel.Routes{"room:*": channel.Define(
		func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil },
		channel.On("x", func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			handled <- struct{}{}
			return push.NoReply, nil
		}),
	)}})
	s := h.open(discardConn{}, serializer.V2(), identity{parent: context.Background()})
	if err := s.Receive(serializer.OpText, []byte(`["1","1","room:1","phx_join",{}]`)); err != nil {
		t.Fatal(err)
	}
	frame := []byte(`["1","2","room:1","x",{"text":"hello"}]`)
	got := testing.AllocsPerRun(1000, func() {
		if err := s.Receive(serializer.OpText, frame); err != nil {
			t.Error(err)
		}
		<-handled
	})
	if got > 2 {
		t.Errorf("%v allocations for a message, want at most 2", got)
	}
	t.Logf("%v allocations for a message", got)
	s.Closed(errors.New("connection lost"))
	if err := h.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// maxChannelBytes is the budget of an idle channel in the heap, if its session has many and its
// topic has ten members.
const maxChannelBytes = 440

func TestChannelMemory(t *testing.T) { // not parallel: it measures the heap of all goroutines
	const sessions, channels = 20, 1000
	h := NewHandler(Config{MaxChannels: channels, JoinRate: -1, Channels: channel.Routes{"room:*": channel.Define(
		func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
			if _, ok := InfoFrom(ctx); !ok {
				return nil, errors.New("no session")
			}
			return nil, nil
		},
	)}})
	all := make([]*session, sessions)
	for i := range all {
		all[i] = h.open(discardConn{}, serializer.V2(), identity{parent: context.Background()})
	}
	before := heapBytes()
	for i, s := range all {
		for k := range channels {
			frame := fmt.Appendf(nil, `["%d","%[1]d","room:%d","phx_join",{}]`, k+1, (i*channels+k)%(sessions*channels/10))
			if err := s.Receive(serializer.OpText, frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	per := (heapBytes() - before) / (sessions * channels)
	t.Logf("%d bytes for a channel", per)
	if per > maxChannelBytes {
		t.Errorf("%d bytes for a channel, budget %d", per, maxChannelBytes)
	}
	for _, s := range all {
		s.Closed(errors.New("connection lost"))
	}
	if err := h.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func heapBytes() int {
	for range 3 { // pools and finalizers release memory one collection later
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
