package app_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/conformance/app"
	"bennu.example/internal/wstest"
	"bennu.example/socket"
)

// TestAuth plays the contract of the tokens: USER.SECONDS, in the handshake and on $socket.
func TestAuth(t *testing.T) {
	t.Parallel()
	a := app.New(app.Config{Auth: &socket.Auth{Notice: time.Second, Grace: time.Second}})
	server := httptest.NewServer(a)
	defer server.Close()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := a.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	dial := func(token string) (*wstest.Conn, error) {
		return wstest.Dial(strings.TrimPrefix(server.URL, "http://"), "/socket/websocket?vsn=2.0.0"+token)
	}
	play := func(conn *wstest.Conn, send string, want ...string) {
		t.Helper()
		if err := conn.Send([]byte(send)); err != nil {
			t.Fatal(err)
		}
		for _, frame := range want {
			got, err := conn.Text()
			if err != nil || string(got) != frame {
				t.Fatalf("got  %s, %v\nwant %s", got, err, frame)
			}
		}
	}
	const room = `["1","1","room:a","phx_reply",{"status":"ok","response":{}}]`
	user := func(name string) string {
		return `["1","2","room:a","phx_reply",{"status":"ok","response":{"user":` + name + `}}]`
	}
	for _, token := range []string{"ann", "ann.x", ".5", "ann.-1", "ann.0"} {
		if _, err := dial("&token=" + token); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("%s: %v", token, err)
		}
	}
	ann, err := dial("&token=ann.60&user_id=u1")
	if err != nil {
		t.Fatal(err)
	}
	defer ann.Close()
	play(ann, `["1","1","room:a","phx_join",{}]`, room)
	play(ann, `["1","2","room:a","who",{}]`, user(`"ann"`))

	nobody, err := dial("")
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	play(nobody, `["1","1","room:a","phx_join",{}]`, room)
	play(nobody, `["1","2","room:a","who",{}]`, user(`null`))
	if err := nobody.Send([]byte(`["3","3","$socket","phx_join",{}]`)); err != nil {
		t.Fatal(err)
	}
	if got, err := nobody.Text(); err != nil || !strings.Contains(string(got), `"auth":{"state":"anonymous"}`) {
		t.Fatalf("%s, %v", got, err)
	}
	if err := nobody.Send([]byte(`["3","4","$socket","token",{"token":"bob.60"}]`)); err != nil {
		t.Fatal(err)
	}
	if got, err := nobody.Text(); err != nil || !strings.Contains(string(got), `"claims":{"user":"bob"}`) {
		t.Fatalf("%s, %v", got, err)
	}
	play(nobody, `["1","2","room:a","who",{}]`, user(`"bob"`))
}
