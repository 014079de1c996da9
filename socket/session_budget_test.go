//go:build !race

package socket

import (
	"context"
	"errors"
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
