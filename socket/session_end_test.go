package socket_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/socket"
)

// A socket has ended when all of its channels have, also one that the client left.
func TestSocketWaitsForWhatItsClientLeft(t *testing.T) {
	t.Parallel()
	gate, terminating := make(chan struct{}), make(chan struct{})
	s := serve(t, socket.Config{Channels: channel.Routes{"room:*": echoes(
		channel.Terminate(func(*nobody, context.Context, *channel.Channel, error) {
			close(terminating)
			<-gate
		}))}})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	p.send(`["1","2","room:1","phx_leave",{}]`)
	<-terminating
	p.c.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond) // without the channel it would be over at once
	defer cancel()
	if err := s.h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while Terminate runs: %v", err)
	}
	close(gate)
}

// Also a message whose topic is no string counts.
func TestMessageRateCountsOddTopics(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MessageRate: 1})
	p := s.dial("vsn=2.0.0")
	for i := range 3 {
		p.send(fmt.Sprintf(`[null,"%d",7,"x",{}]`, i))
		reason := "unmatched topic"
		if i == 2 {
			reason = "too many messages"
		}
		p.want(fmt.Sprintf(`[null,"%d",7,"phx_reply",{"status":"error","response":{"reason":"%s"}}]`, i, reason))
	}
}
