package wstest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/wstest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// The client exchanges messages of any size and fragmentation with a server of coder/websocket.
func TestEcho(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		c.SetReadLimit(-1)
		for {
			typ, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), typ, data); err != nil {
				t.Error(err)
			}
		}
	}))
	defer s.Close()
	c, err := wstest.Dial(s.Listener.Addr().String(), "/")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 100} {
		text := strings.Repeat("x", n)
		if err := c.Send([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Text(); err != nil || string(got) != text {
			t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
	b := wstest.AppendFrame(nil, wstest.Text, []byte("a"))
	b = wstest.AppendFrame(b, wstest.Fin|wstest.Ping, []byte("p"))
	b = wstest.AppendFrame(b, wstest.Fin|wstest.Continuation, []byte("b"))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Text(); err != nil || string(got) != "ab" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := c.Frame(wstest.Fin|wstest.Close, []byte{3, 232}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Text(); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Fatalf("after the close: %v", err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatal(err)
	}
	<-done
}

func TestRefused(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := wstest.Dial(s.Listener.Addr().String(), "/x", "X-Y: z")
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Fatal(err)
	}
}
