package socket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// lossyProxy forwards long-poll requests to a server and breaks connections on request.
type lossyProxy struct {
	http.Handler
	post func(lines int) (pass bool) // called for each POST; nil means that all pass
	cut  atomic.Int32                // GETs to break
}

func startLossyProxy(t *testing.T, to string) (p *lossyProxy, at string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: u.Scheme, Host: u.Host})
	pass.Transport = &http.Transport{DisableKeepAlives: true}
	pass.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	p = &lossyProxy{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			if p.cut.Add(-1) >= 0 {
				panic(http.ErrAbortHandler)
			}
			pass.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || p.post != nil && !p.post(bytes.Count(body, []byte("\n"))+1) {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return p, s.URL + u.Path
}

// TestClientLongPollUnsent lets a request fail, or ends the session, while pushes wait. Only pushes
// that were sent before can be lost. The others are sent in the next session.
func TestClientLongPollUnsent(t *testing.T) {
	t.Parallel()
	for _, vsn := range serializer.Default() {
		for _, tt := range []struct {
			name   string
			pushes int
			fails  int  // the number of the POST that fails, from 1; zero means none
			cutGet bool // the poll breaks while the first POST is under way
		}{
			{"one behind another", 1, 1, false},
			{"many behind one", 260, 1, false},
			{"in the middle of a batch", 260, 3, false},
			{"the poll breaks", 120, 0, true},
		} {
			t.Run(serializer.Vsn(vsn)+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				app, _ := startApp(t, "127.0.0.1:0")
				proxy, at := startLossyProxy(t, app)
				c, err := socket.Dial(within(t), at, &socket.ClientConfig{Transport: socket.TransportLongPoll, Serializer: vsn})
				if err != nil {
					t.Fatal(err)
				}
				defer closeSocket(t, c)
				ch := join(t, c, topic(t), nil)

				var posts, sent atomic.Int32 // until a POST failed
				arrived, release := make(chan struct{}), make(chan struct{})
				proxy.post = func(lines int) bool {
					n := posts.Add(1)
					if int(n) <= max(tt.fails, 1) {
						sent.Add(int32(lines))
					}
					if n == 1 {
						close(arrived)
						<-release
					}
					return int(n) != tt.fails && (n > 1 || !tt.cutGet)
				}
				list := []*push.Push{ch.Push("echo", 0)}
				<-arrived
				for i := range tt.pushes {
					list = append(list, ch.Push("echo", i+1))
				}
				if tt.cutGet {
					before := c.Stats().Connections
					proxy.cut.Store(1)
					for s := range c.States(within(t)) {
						if s.Status == socket.StatusConnected && c.Stats().Connections > before {
							break
						}
					}
				}
				close(release)
				failed := 0
				for i, p := range list {
					got, err := p.Wait(within(t))
					switch {
					case err == nil && same(t, got, fmt.Sprint(i)):
					case errors.Is(err, push.ErrLost) && i < int(sent.Load()):
						failed++
					default:
						t.Fatalf("push %d: %v", i, err)
					}
				}
				if failed == 0 || int(sent.Load()) == len(list) && len(list) > 1 {
					t.Errorf("%d of %d pushes sent, %d lost, want some unsent", sent.Load(), len(list), failed)
				}
			})
		}
	}
}
