package socket_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/socket"
	"bennu.example/transport/longpoll"
)

// get requests a long-poll session.
func get(h *socket.Handler) (status int) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/longpoll?vsn=2.0.0", nil))
	return w.Code
}

// stuck is a longpoll.Peers whose stop function does not return before gate is closed.
type stuck struct{ gate chan struct{} }

func (stuck) Send(string, []byte) error                   { return nil }
func (s stuck) Listen(string, func([]byte)) (stop func()) { return func() { <-s.gate } }

// TestShutdownForEachCaller checks that each caller of Shutdown waits until its own context ends,
// whatever delays the end, and that a later caller learns of the end.
func TestShutdownForEachCaller(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(gate chan struct{}) (h *socket.Handler, end func()){
		"a handshake": func(gate chan struct{}) (*socket.Handler, func()) {
			h := socket.NewHandler(socket.Config{Connect: func(context.Context, *socket.Request) (context.Context, error) {
				<-gate
				return nil, nil
			}})
			var asking sync.WaitGroup
			asking.Go(func() {
				if status := get(h); status != http.StatusServiceUnavailable {
					t.Errorf("a handshake during Shutdown was answered with %d", status)
				}
			})
			return h, asking.Wait
		},
		"the last wait": func(gate chan struct{}) (*socket.Handler, func()) {
			h := socket.NewHandler(socket.Config{LongPoll: longpoll.Config{Peers: stuck{gate}, Secret: []byte("secret")}})
			return h, func() {}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			gate := make(chan struct{})
			h, end := begin(gate)
			synctest.Wait()
			var callers sync.WaitGroup
			start := time.Now()
			shutdown := func(d time.Duration, want error, after time.Duration) {
				callers.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), d)
					defer cancel()
					if err := h.Shutdown(ctx); !errors.Is(err, want) || time.Since(start) != after {
						t.Errorf("%s: a caller with %v: %v after %v", name, d, err, time.Since(start))
					}
				})
				synctest.Wait() // so that the first caller is known
			}
			shutdown(2*time.Second, context.DeadlineExceeded, 2*time.Second)
			shutdown(time.Second, context.DeadlineExceeded, time.Second)
			shutdown(3*time.Second, context.DeadlineExceeded, 3*time.Second)
			shutdown(time.Hour, nil, 4*time.Second)
			time.Sleep(4 * time.Second)
			close(gate)
			callers.Wait()
			if err := h.Shutdown(t.Context()); err != nil {
				t.Errorf("%s: afterwards: %v", name, err)
			}
			end()
		})
	}
}

// TestShutdownPace checks that the first caller's context bounds the time of the batches, and no
// other's.
func TestShutdownPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := socket.NewHandler(socket.Config{
			Drain:    socket.Drain{Batch: 1, Interval: time.Minute},
			LongPoll: longpoll.Config{Window: time.Hour}, // the sessions do not end by themselves
		})
		for range 5 {
			if status := get(h); status != http.StatusOK {
				t.Fatalf("answered %d", status)
			}
		}
		var first sync.WaitGroup
		first.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the first caller: %v", err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second caller: %v", err)
		}
		synctest.Wait()
		if n := h.Stats().LongPoll.Sessions; n != 4 {
			t.Errorf("after one batch there are %d sessions", n)
		}
		start := time.Now()
		if err := h.Shutdown(t.Context()); err != nil || time.Since(start) != 89*time.Second {
			t.Errorf("the rest took %v: %v", time.Since(start), err)
		}
		first.Wait()
	})
}

// TestDraining checks that the handler's counts tell of Shutdown from its beginning, while the
// connections of clients still end.
func TestDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		h := socket.NewHandler(socket.Config{LongPoll: longpoll.Config{Peers: stuck{gate}, Secret: []byte("secret")}})
		if h.Stats().Draining {
			t.Error("draining before Shutdown")
		}
		ended := make(chan error, 1)
		go func() { ended <- h.Shutdown(t.Context()) }()
		synctest.Wait() // Shutdown waits at the gate
		if !h.Stats().Draining {
			t.Error("not draining during Shutdown")
		}
		close(gate)
		if err := <-ended; err != nil || !h.Stats().Draining {
			t.Errorf("after Shutdown: draining %v, %v", h.Stats().Draining, err)
		}
	})
}
