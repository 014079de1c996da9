package socket_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"bennu.example/channel"
	"bennu.example/socket"
)

func TestRefusalWithoutStatus(t *testing.T) {
	t.Parallel()
	s := serve(t, socket.Config{Connect: func(context.Context, *socket.Request) (context.Context, error) {
		return nil, &socket.Refusal{Body: "no"}
	}})
	_, resp, err := s.tryDial("vsn=2.0.0", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("got %v, %v", resp, err)
	}
}

// TestMountedBehindStripPrefix has a request whose Pattern contains the whole path, of which
// StripPrefix leaves only the end.
func TestMountedBehindStripPrefix(t *testing.T) {
	t.Parallel()
	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": echoes()}})
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", h))
	for path, want := range map[string]int{"/api/longpoll": http.StatusOK, "/api/": http.StatusNotFound} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodOptions, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if err := h.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}
