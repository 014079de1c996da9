package socket_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/socket"
)

// The tests of this file are for kinds of faults that were published for other servers and that no
// other test covers. docs/security.md has the list.

// TestManyHeaders sends handshakes with thousands of headers. Each is accepted or refused, and
// other clients are not affected.
func TestManyHeaders(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	good := s.dial("vsn=2.0.0")
	good.join("room:1")
	for _, n := range []int{2_000, 100_000} {
		header := http.Header{}
		for i := range n {
			header.Set(fmt.Sprintf("X-Header-%d", i), "x")
		}
		p, resp, err := s.tryDial("vsn=2.0.0", &websocket.DialOptions{HTTPHeader: header})
		switch {
		case n == 2_000 && err != nil:
			t.Errorf("%d headers: %v", n, err)
		case n == 2_000:
			p.join("room:1")
		case err == nil:
			t.Errorf("%d headers were accepted", n) // http.Server.MaxHeaderBytes
		case resp != nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge:
			t.Errorf("%d headers: status %d", n, resp.StatusCode)
		}
	}
	good.heartbeat()
}

// TestBinaryRelayedToVersion1 relays a push that a client of version 1.0.0 cannot receive. The
// other members of the room must not be affected.
func TestBinaryRelayedToVersion1(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{})
	old := s.dial("vsn=1.0.0")
	old.send(`{"topic":"room:1","event":"phx_join","payload":{},"ref":"1","join_ref":"1"}`)
	if got, err := old.read(); err != nil || !strings.Contains(got, `"ok"`) {
		t.Fatalf("join: %s %v", got, err)
	}
	p := s.dial("vsn=2.0.0")
	p.join("room:1")
	push := append([]byte{0, 1, 1, 6, 5}, "12room:1shout\x01\x02\x03"...) // a push with join_ref 1 and ref 2
	if err := p.c.Write(t.Context(), websocket.MessageBinary, push); err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"first",
		"second"} { // whether the connection of the version 1.0.0 client ends does not matter
		q := s.dial("vsn=2.0.0")
		q.join("room:1")
		q.send(`["1","2","room:1","shout",{"text":"` + m + `"}]`)
		if got, err := old.read(); err != nil || !strings.Contains(got, m) {
			t.Errorf("the client of version 1.0.0 gets %s, %v", got, err)
		}
	}
}

// TestHeaderInjection checks that a line break in a header of the Go client is an error, and that
// nothing is sent.
func TestHeaderInjection(t *testing.T) {
	t.Parallel()
	for _, by := range []socket.ClientTransport{socket.TransportWebSocket, socket.TransportLongPoll} {
		reached := make(chan http.Header, 10)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case reached <- r.Header:
			default:
			}
			w.WriteHeader(http.StatusForbidden)
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		c, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{
			Transport: by, Header: http.Header{"X-User": {"ann\r\nX-Admin: yes"}},
		})
		if err == nil {
			c.Close(ctx)
			t.Error("the header was accepted")
		}
		cancel()
		server.Close()
		select {
		case h := <-reached:
			if h.Get("X-Admin") != "" {
				t.Errorf("the server received %v", h)
			}
		default:
		}
	}
}
