package socket_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"bennu.example/internal/wstest"
	"bennu.example/socket"
)

// TestHugeToken sends tokens of up to 16 MiB, in the handshake and later. Verify never sees one of
// more than 16 KiB, and an open connection keeps its grant.
func TestHugeToken(t *testing.T) {
	t.Parallel()
	const most = 16 << 10
	auth := &socket.Auth{Verify: func(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
		if len(token) > most {
			t.Errorf("Verify was called with %d bytes", len(token))
		}
		return socket.Grant{ID: token[:3]}, nil
	}}
	for most, size := range map[int64]int{0: 1<<20 - 100, 32 << 20: 16 << 20} { // MaxMessage bounds it, too
		t.Run(fmt.Sprintf("a token of %d bytes", size), func(t *testing.T) {
			t.Parallel()
			s := serve(t, socket.Config{Auth: auth, MaxMessage: most})
			p := s.dial("vsn=2.0.0&token=ann")
			p.send(`["1","1","$socket","phx_join",{}]`)
			if _, err := p.read(); err != nil {
				t.Fatal(err)
			}
			p.join("room:1")
			p.send(`["1","2","$socket","token",{"token":"` + strings.Repeat("a", size) + `"}]`)
			p.want(`["1","2","$socket","phx_reply",{"status":"error","response":{"reason":"invalid token"}}]`)
			p.send(`["1","3","room:1","echo",{}]`)
			p.want(`["1","3","room:1","phx_reply",{"status":"ok","response":{}}]`)
		})
	}
	t.Run("handshakes", func(t *testing.T) {
		t.Parallel()
		s := serve(t, socket.Config{Auth: auth, MaxQuery: 64 << 20})
		t.Cleanup(http.DefaultClient.CloseIdleConnections)
		for size, want := range map[int][2]int{
			most: {101, 200}, most + 1: {403, 200}, 100 << 10: {403, 200}, 16 << 20: {431, 431}, // of net/http
		} {
			token := strings.Repeat("a", size)
			conn, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0&token="+token)
			switch {
			case err == nil && want[0] == 101:
				conn.Close()
			case err == nil:
				conn.Close()
				t.Errorf("a WebSocket with a token of %d bytes was accepted", size)
			case !strings.Contains(err.Error(), fmt.Sprint(want[0])) && want[0] != 431: // it may reset the connection
				t.Errorf("a WebSocket with a token of %d bytes: %v", size, err)
			}
			r := getRequest(t, s.url+"/socket/longpoll?vsn=2.0.0")
			r.Header.Set("X-Phoenix-AuthToken", token)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				if want[1] == 200 {
					t.Errorf("long poll with a token of %d bytes: %v", size, err)
				}
				continue
			}
			_ = resp.Body.Close() // the status is enough
			if resp.StatusCode != want[1] {
				t.Errorf("long poll with a token of %d bytes: %s", size, resp.Status)
			}
		}
	})
}
