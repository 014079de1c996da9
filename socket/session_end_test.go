package socket_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/socket"
)

// TestSocketWaitsForLeftChannels checks that a socket ends after all of its channels, including one
// that the client left.
func TestSocketWaitsForLeftChannels(t *testing.T) {
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
	ctx, cancel := context.WithTimeout(context.Background(),
		200*time.Millisecond) // without the channel it would return immediately
	defer cancel()
	if err := s.h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while Terminate runs: %v", err)
	}
	close(gate)
}

// TestMessageRateCountsOddTopics checks that a message whose topic is not a string counts.
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

// TestJoinRefIsBounded checks the bound of join_refs, which a channel keeps for its whole life.
func TestJoinRefIsBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxTopic: 100})
	p := s.dial("vsn=2.0.0")
	fits, long := strings.Repeat("1", 98), strings.Repeat("1", 99) // plus the quotes
	for frame, want := range map[string]string{
		`["%s","1","room:a","phx_join",{}]`:  `["%s","1","room:a","phx_reply",%s]`,
		`[null,"%s","room:b","phx_join",{}]`: `[null,"%s","room:b","phx_reply",%s]`,
	} {
		p.send(fmt.Sprintf(frame, long))
		p.want(fmt.Sprintf(want, long, `{"status":"error","response":{"reason":"ref too long"}}`))
		p.send(fmt.Sprintf(frame, fits))
		p.want(fmt.Sprintf(want, fits, `{"status":"ok","response":{}}`))
	}
}
