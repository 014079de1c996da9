package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// TestSlowJoin checks that a slow join delays its own topic only. In Phoenix it delays the whole
// socket.
func TestSlowJoin(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	slow := channel.Define(func(_ *nobody, _ context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		<-gate
		return nil, nil
	}, onEvent("echo", func(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
		return push.OK(p), nil
	}))
	s := serve(t, socket.Config{Channels: channel.Routes{"slow": slow, "room:*": echoes()}})
	p := s.dial("vsn=2.0.0")
	p.send(`["1","1","slow","phx_join",{}]`, `["1","2","slow","echo",{"n":1}]`)
	p.join("room:1")
	p.heartbeat()
	close(gate)
	p.want(`["1","1","slow","phx_reply",{"status":"ok","response":{}}]`,
		`["1","2","slow","phx_reply",{"status":"ok","response":{"n":1}}]`)
}

func TestSlowCallback(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	s := serve(t, socket.Config{Channels: channel.Routes{"room:*": echoes(
		onEvent("wait", func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			<-gate
			return push.OK(nil), nil
		}))}})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	p.join("room:2")
	p.send(`["1","2","room:1","wait",{}]`, `["1","3","room:1","echo",{}]`, `["1","4","room:2","echo",{"n":2}]`)
	p.want(`["1","4","room:2","phx_reply",{"status":"ok","response":{"n":2}}]`)
	p.heartbeat()
	close(gate)
	p.want(`["1","2","room:1","phx_reply",{"status":"ok","response":{}}]`,
		`["1","3","room:1","phx_reply",{"status":"ok","response":{}}]`)
}

func TestPanicsStayInTheirChannel(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Channels: channel.Routes{"room:*": echoes(
		onEvent("panic",
			func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) { panic("secret") }))}})
	p, other := s.dial("vsn=2.0.0"), s.dial("vsn=2.0.0")
	p.join("room:1")
	p.join("room:2")
	other.join("room:1")
	p.send(`["1","2","room:1","panic",{}]`)
	p.want(`["1","1","room:1","phx_error",{"reason":"channel_crash"}]`)
	p.send(`["1","3","room:2","echo",{}]`)
	p.want(`["1","3","room:2","phx_reply",{"status":"ok","response":{}}]`)
	other.send(`["1","2","room:1","shout",{}]`)
	other.want(`[null,null,"room:1","shout",{}]`)
	if log := s.log.String(); !strings.Contains(log, "secret") || !strings.Contains(log, "session_test.go") {
		t.Errorf("log: %s", log)
	}
}

func TestMaxChannels(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxChannels: 3})
	p := s.dial("vsn=2.0.0")
	for i := range 3 {
		p.join(fmt.Sprintf("room:%d", i))
	}
	p.send(`["5","6","room:x","phx_join",{}]`)
	p.want(`["5","6","room:x","phx_reply",{"status":"error","response":{"reason":"too many channels joined"}}]`)
	p.send(`["7","7","room:1","phx_join",{}]`)
	p.want(`["7","7","room:1","phx_reply",{"status":"ok","response":{}}]`, `["1","1","room:1","phx_close",{}]`)
	p.send(`["1","8","room:0","phx_leave",{}]`)
	p.want(`["1","8","room:0","phx_reply",{"status":"ok","response":{}}]`, `["1","1","room:0","phx_close",{}]`)
	p.join("room:x")
	if !strings.Contains(s.log.String(), "MaxChannels") {
		t.Error("the log does not name the limit")
	}
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 10)
	s := serve(t, socket.Config{
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			r.ID = r.HTTP.URL.Query().Get("id")
			return ctx, nil
		},
		Channels: channel.Routes{"room:*": echoes(
			channel.Terminate(func(_ *nobody, _ context.Context, _ *channel.Channel, reason error) { ended <- reason }))},
	})
	a, b, other, anonymous := s.dial("vsn=2.0.0&id=u"), s.dial("vsn=2.0.0&id=u"), s.dial("vsn=2.0.0&id=v"),
		s.dial("vsn=2.0.0")
	for _, p := range []*peer{a, b, other, anonymous} {
		p.join("room:1")
	}
	if err := s.h.PubSub().Broadcast(t.Context(), "u", "something else", nil); err != nil {
		t.Fatal(err)
	}
	a.heartbeat()
	if err := s.h.Disconnect(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	a.wantClose(websocket.StatusGoingAway)
	b.wantClose(websocket.StatusGoingAway)
	for range 2 {
		if reason := <-ended; !errors.Is(reason, channel.ErrClosed) {
			t.Errorf("ended with %v", reason)
		}
	}
	other.heartbeat()
	anonymous.heartbeat()
}

func TestBadMessagesEndTheirSocketOnly(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{MaxMessage: 1000})
	good := s.dial("vsn=2.0.0")
	good.join("room:1")
	for frame, code := range map[string]websocket.StatusCode{
		"not json":                          websocket.StatusInternalError,
		`[null,"1","phoenix","heartbeat"]`:  websocket.StatusInternalError,
		strings.Repeat("[", 900):            websocket.StatusInternalError,
		strings.Repeat("x", 1001):           websocket.StatusMessageTooBig,
		"[null,\"1\",\"phoenix\",\"\xff\"]": websocket.StatusInvalidFramePayloadData,
	} {
		bad := s.dial("vsn=2.0.0")
		bad.join("room:1")
		bad.send(frame)
		bad.wantClose(code)
		good.heartbeat()
	}
}

// TestFloodOfJoins checks that a flood of joins of one topic results in one channel, and that every
// join has a reply.
func TestFloodOfJoins(t *testing.T) {
	t.Parallel()
	var live atomic.Int32
	var most atomic.Int32
	h := channel.Define(func(_ *nobody, _ context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		if n := live.Add(1); n > most.Load() {
			most.Store(n)
		}
		return nil, nil
	}, channel.Terminate(func(*nobody, context.Context, *channel.Channel, error) { live.Add(-1) }))
	s := serve(t, socket.Config{Channels: channel.Routes{"room": h}})
	p := s.dial("vsn=2.0.0")
	const joins = 300
	go func() {
		for i := range joins {
			p.send(fmt.Sprintf(`["%d","%d","room","phx_join",{}]`, i, i))
		}
	}()
	replies, closes := 0, 0
	for replies < joins || closes < joins-1 {
		got, err := p.read()
		if err != nil {
			t.Fatalf("after %d replies and %d closes: %v", replies, closes, err)
		}
		switch {
		case strings.Contains(got, `"phx_reply",{"status":"ok"`):
			replies++
		case strings.Contains(got, "phx_close"):
			closes++
		default:
			t.Fatalf("got %s", got)
		}
	}
	p.heartbeat()
	if n := live.Load(); n != 1 {
		t.Errorf("%d channels are left", n)
	}
	if n := s.h.PubSub().Subscribers("room"); n != 1 {
		t.Errorf("%d subscriptions", n)
	}
	if most.Load() != 1 {
		t.Errorf("%d channels of one topic at the same time", most.Load())
	}
}

// TestLastMessagesAreHandled checks that messages that a client sends just before it disconnects
// are handled.
func TestLastMessagesAreHandled(t *testing.T) {
	t.Parallel()
	handled := make(chan error, 1)
	s := serve(t, socket.Config{Channels: channel.Routes{"room:*": echoes(
		onEvent("last", func(ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			handled <- ctx.Err()
			return push.NoReply, nil
		}))}})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	p.send(`["1","2","room:1","last",{}]`)
	p.c.CloseNow()
	select {
	case err := <-handled:
		if err != nil {
			t.Errorf("its context had ended: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("not handled")
	}
}

// isRetryAfter reports whether an answer has a Retry-After of 1 to 5 s.
func isRetryAfter(h http.Header) bool {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	return err == nil && seconds >= 1 && seconds <= 5
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 100)
	s := serve(t, socket.Config{
		Channels: channel.Routes{"room:*": echoes(
			channel.Terminate(func(_ *nobody, _ context.Context, _ *channel.Channel, reason error) { ended <- reason }))},
		Drain: socket.Drain{Batch: 2, Interval: time.Millisecond},
	})
	var all []*peer
	for i := range 7 {
		p := s.dial("vsn=2.0.0")
		if i > 0 { // one socket has no channel and must be drained as well
			p.join("room:1")
		}
		all = append(all, p)
	}
	done := make(chan error)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { done <- s.h.Shutdown(ctx) }()
	for _, p := range all {
		p.wantClose(websocket.StatusServiceRestart)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(ended) != 6 {
		t.Errorf("%d channels terminated", len(ended))
	}
	_, resp, err := s.tryDial("vsn=2.0.0", nil)
	if err == nil || resp.StatusCode != http.StatusServiceUnavailable || !isRetryAfter(resp.Header) || !resp.Close {
		t.Errorf("afterwards: %v", err)
	}
	resp, err = http.Get(s.url + "/socket/longpoll?vsn=2.0.0")
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !isRetryAfter(resp.Header) || !resp.Close {
		t.Errorf("over long poll: %v, %v", resp, err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := s.h.Shutdown(ctx); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestShutdownDeadline(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	s := serve(t, socket.Config{Channels: channel.Routes{"room:*": echoes(
		channel.Terminate(func(*nobody, context.Context, *channel.Channel, error) { <-gate }))}})
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while a callback does not return: %v", err)
	}
	close(gate)
}
