package socket_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"bennu.example/internal/wstest"
	"bennu.example/key"
	"bennu.example/socket"
)

// TestClientIDParam checks the connect parameter $client, on both transports: the ids that are
// accepted, and that others are refused with 400.
func TestClientIDParam(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var last socket.Request
	s := serve(t, socket.Config{Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
		mu.Lock()
		defer mu.Unlock()
		last = *r
		r.ClientID, r.ConnectionID = "another", "another" // without effect
		return ctx, nil
	}})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	seen := map[string]bool{}
	check := func(transport, want string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if _, err := key.Time(last.ConnectionID); err != nil || seen[last.ConnectionID] {
			t.Errorf("%s: the id of the connection is %q: %v", transport, last.ConnectionID, err)
		}
		seen[last.ConnectionID] = true
		if want == "" && (len(last.ClientID) != 32 || seen[last.ClientID]) || want != "" && last.ClientID != want {
			t.Errorf("%s: the id of the client is %q, want %q", transport, last.ClientID, want)
		}
		seen[last.ClientID] = true
		last = socket.Request{}
	}
	long := strings.Repeat("a", 64)
	for _, id := range []string{"", "abcdefghijklmnop", "ABCDEFGH_12345-z", long} {
		query := "?vsn=2.0.0"
		if id != "" {
			query += "&$client=" + id
		}
		conn, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket"+query)
		if err != nil {
			t.Fatal(err)
		}
		check("WebSocket", id)
		if err := conn.Send([]byte(`["1","1","$socket","phx_join",{}]`)); err != nil {
			t.Fatal(err)
		}
		frame, err := conn.Text()
		if err != nil || strings.Contains(string(frame), "another") || !strings.Contains(string(frame), `"client":"`+id) {
			t.Errorf("%s: %v", frame, err)
		}
		conn.Close()
		status, text := s.do(getRequest(t, s.url+"/socket/longpoll"+query))
		if status != http.StatusOK || !strings.Contains(text, `"status":410`) {
			t.Errorf("long poll with %q: %d %s", id, status, text)
		}
		check("long poll", id)
	}
	for _, id := range []string{
		"", "short", "abcdefghijklmno", long + "a", "abcdefghijklmno.", "abcdefghijklmno%20", strings.Repeat("%C3%BC", 9),
	} {
		query := "?vsn=2.0.0&%24client=" + id
		_, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket"+query)
		if err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("WebSocket with %q: %v", id, err)
		}
		if status, text := s.do(getRequest(t, s.url+"/socket/longpoll"+query)); status != http.StatusBadRequest {
			t.Errorf("long poll with %q: %d %s", id, status, text)
		}
	}
	nested := s.url + "/socket/longpoll?vsn=2.0.0&$client[a]=abcdefghijklmnop"
	if status, text := s.do(getRequest(t, nested)); status != http.StatusBadRequest {
		t.Errorf("a nested parameter: %d %s", status, text)
	}
}

func getRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
