package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// departing is a handler with connections in memory, and when they received what.
type departing struct {
	t     *testing.T
	h     *Handler
	start time.Time
	conns []*departingConn
}

// departingConn is a connection that notes frames and closes. A close ends its session.
type departingConn struct {
	line
	d        *departing
	received []string // "1.5s frame" or "2s close 1012"
	advised  []advicePayload
	isClosed bool
}

func newDeparting(t *testing.T, cfg Config) *departing {
	cfg.Channels = rooms(nil, make(chan error, 1000))
	return &departing{t: t, h: NewHandler(cfg), start: time.Now()}
}

// open opens a connection and joins topics on it with the given params.
func (d *departing) open(params ...string) *departingConn {
	k := &departingConn{line: line{t: d.t}, d: d}
	k.s = d.h.open(k, serializer.V2(), identity{parent: context.Background(), connection: testConnection})
	for _, p := range params {
		k.send(fmt.Sprintf(`["1","1","$socket","phx_join",%s]`, p))
	}
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.received = nil // the replies
	d.conns = append(d.conns, k)
	return k
}

func (k *departingConn) note(format string, args ...any) {
	k.received = append(k.received, fmt.Sprintf("%v ", time.Since(k.d.start))+fmt.Sprintf(format, args...))
}

func (k *departingConn) Send(f *serializer.Frame, _ transport.Delivery) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := serializer.V2().ParseClient(f.Op, f.Data)
	var p advicePayload
	if err == nil && m.Event == eventAdvice && m.Payload.Decode(&p) == nil {
		k.advised = append(k.advised, p)
		k.note("advice %s %v", p.Reason, p.WithinMS)
		return nil
	}
	k.note("%s", f.Data)
	return nil
}

func (k *departingConn) Close(code int, _ string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.isClosed {
		return
	}
	k.isClosed = true
	k.note("close %d", code)
	go k.s.Closed(&transport.CloseError{Code: code})
}

func (k *departingConn) want(list ...string) {
	k.d.t.Helper()
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(k.received, list) {
		k.d.t.Errorf("got %q, want %q", k.received, list)
	}
}

func (d *departing) shutdown(within, want time.Duration, wantErr error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), within)
	defer cancel()
	start := time.Now()
	if err := d.h.Shutdown(ctx); !errors.Is(err, wantErr) || time.Since(start) != want {
		d.t.Errorf("shutdown: %v after %v, want %v after %v", err, time.Since(start), wantErr, want)
	}
}

// TestShutdownAdvice checks what each kind of client receives, and when.
func TestShutdownAdvice(t *testing.T) {
	t.Parallel()
	const move = `{"move":true}`
	for name, tt := range map[string]struct {
		drain         Drain
		plain, joined []string
		moves         []string
		end           time.Duration
	}{
		"by default": {
			Drain{}, []string{"0s close 1012"}, []string{"0s advice restart 0", "2s close 1012"},
			[]string{"0s advice restart 10000", "10s close 1012"}, 10 * time.Second,
		},
		"with a notice": {
			Drain{Notice: 3 * time.Second}, []string{"0s close 1012"}, []string{"0s advice restart 0", "3s close 1012"},
			[]string{"0s advice restart 3000", "3s close 1012"}, 3 * time.Second,
		},
		"without advice": {
			Drain{Notice: -1}, []string{"0s close 1012"}, []string{"0s close 1012"}, []string{"0s close 1012"}, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDeparting(t, Config{Drain: tt.drain})
				plain, joined, moves := d.open(), d.open(`{}`), d.open(`{"version":"x"}`, move)
				left := d.open(move)
				left.send(`["1","2","$socket","phx_leave",{}]`)
				synctest.Wait()
				left.received = nil
				d.shutdown(time.Hour, tt.end, nil)
				plain.want(tt.plain...)
				left.want(tt.plain...)
				joined.want(tt.joined...)
				moves.want(tt.moves...)
			})
		})
	}
}

// TestShutdownAdviceInBatches checks the pace: a batch is notified, and closed after the notice,
// while the next batches are notified.
func TestShutdownAdviceInBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDeparting(t, Config{Drain: Drain{Batch: 2, Interval: time.Second, Notice: 1500 * time.Millisecond}})
		for range 5 {
			d.open(`{"move":true}`)
		}
		d.shutdown(time.Hour, 3500*time.Millisecond, nil)
		var got []string
		for _, k := range d.conns {
			got = append(got, strings.Join(k.received, ", "))
		}
		slices.Sort(got)
		want := []string{
			"0s advice restart 1500, 1.5s close 1012", "0s advice restart 1500, 1.5s close 1012",
			"1s advice restart 1500, 2.5s close 1012", "1s advice restart 1500, 2.5s close 1012",
			"2s advice restart 1500, 3.5s close 1012",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

// TestShutdownEndsWithItsSockets checks that Shutdown does not wait for the notice of clients that
// have left, and that the end of its context closes the rest.
func TestShutdownEndsWithItsSockets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDeparting(t, Config{Drain: Drain{Batch: 1}})
		a, b := d.open(`{"move":true}`), d.open(`{"move":true}`)
		time.AfterFunc(3*time.Second, func() { a.Close(1000, ""); b.Close(1000, "") })
		d.shutdown(time.Hour, 3*time.Second, nil)

		d = newDeparting(t, Config{}) // a client that leaves $socket needs no notice
		a = d.open(`{"move":true}`)
		time.AfterFunc(time.Second, func() { a.send(`["1","2","$socket","phx_leave",{}]`) })
		d.shutdown(time.Hour, time.Second, nil)

		d = newDeparting(t, Config{Drain: Drain{Batch: 1, Interval: time.Minute}})
		a, b = d.open(`{"move":true}`), d.open(`{}`)
		d.shutdown(time.Second, time.Second, context.DeadlineExceeded)
		synctest.Wait()
		for _, k := range []*departingConn{a, b} {
			if last := k.received[len(k.received)-1]; last != "1s close 1012" {
				t.Errorf("got %q", k.received)
			}
		}
		d.shutdown(time.Hour, 0, nil)

		d = newDeparting(t, Config{}) // with a context that has ended there is no time for advice
		a = d.open(`{"move":true}`)
		d.shutdown(-1, 0, context.DeadlineExceeded)
		a.want("0s close 1012")
		d.shutdown(time.Hour, 0, nil)
	})
}

// TestAdviceSpread checks that the advice spreads the clients evenly.
func TestAdviceSpread(t *testing.T) {
	t.Parallel()
	for spread, want := range map[time.Duration]time.Duration{
		0: 5 * time.Second, time.Minute: time.Minute, -1: 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDeparting(t, Config{Drain: Drain{Spread: spread}})
			for range 400 {
				d.open(`{}`)
			}
			d.shutdown(time.Hour, 2*time.Second, nil)
			var quarters [4]int
			for _, k := range d.conns {
				after := time.Duration(k.advised[0].AfterMS) * time.Millisecond
				switch {
				case want == 0 && after != 0, want > 0 && (after < 0 || after >= want):
					t.Errorf("spread %v: advice of %v", spread, after)
				case want > 0:
					quarters[4*after/want]++
				}
			}
			for _, n := range quarters {
				if want > 0 && n < 50 {
					t.Errorf("spread %v: %v of 400 in each quarter", spread, quarters)
				}
			}
		})
	}
}

// TestAdvise checks that Advise closes the given part of the connections, with advice, and that the
// handler goes on.
func TestAdvise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDeparting(t, Config{Drain: Drain{Batch: 2, Interval: time.Second}})
		reason := strings.Repeat("ü", 100)
		for range 10 {
			d.open(`{"move":true}`)
		}
		for _, fraction := range []float64{-0.1, 1.1, math.NaN(), math.Inf(1)} {
			if err := d.h.Advise(t.Context(), "move", fraction); err == nil {
				t.Errorf("fraction %v is accepted", fraction)
			}
		}
		if err := d.h.Advise(t.Context(), "move", 0); err != nil || time.Since(d.start) > 0 {
			t.Errorf("nobody: %v after %v", err, time.Since(d.start))
		}
		if err := d.h.Advise(t.Context(), reason, 0.25); err != nil || time.Since(d.start) != 11*time.Second {
			t.Errorf("a quarter: %v after %v", err, time.Since(d.start))
		}
		synctest.Wait()
		closed := 0
		for _, k := range d.conns {
			if k.isClosed {
				closed++
				if got := k.advised[0]; got.Reason != strings.Repeat("ü", 61) || got.WithinMS != 10_000 {
					t.Errorf("advice %+v", got)
				}
			} else if len(k.received) > 0 {
				t.Errorf("another connection received %q", k.received)
			}
		}
		if n := d.h.Stats().Sockets; closed != 3 || n != 7 {
			t.Errorf("%d connections closed, and %d remain", closed, n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.h.Advise(ctx, "overload", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with too little time: %v", err)
		}
		if n := d.h.Stats().Sockets; n != 7 {
			t.Errorf("%d connections remain", n)
		}
		advised := make(chan error)
		go func() { advised <- d.h.Advise(t.Context(), "overload", 1) }()
		synctest.Wait()
		if err := d.h.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-advised; err != nil {
			t.Errorf("during Shutdown: %v", err)
		}
	})
}

// writer is a function that is called for each line of a log.
type writer func(line []byte)

func (w writer) Write(line []byte) (int, error) { w(line); return len(line), nil }

// TestAdviceDuringJoin checks that a client whose join of $socket is not answered yet when the
// handler shuts down gets the reply, the advice and the time to use it.
func TestAdviceDuringJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		joined, release := make(chan struct{}), make(chan struct{})
		log := zerolog.New(writer(func(line []byte) { // the join callback writes it before it returns
			if bytes.Contains(line, []byte("client information")) {
				close(joined)
				<-release
			}
		}))
		d := newDeparting(t, Config{Logger: &log, Drain: Drain{Notice: time.Second}})
		k := d.open("{}") // a join that is not answered holds up its connection for 50 ms
		<-joined
		time.AfterFunc(200*time.Millisecond, func() { close(release) })
		d.shutdown(time.Minute, time.Second, nil)
		synctest.Wait()
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.received) < 3 || !strings.HasPrefix(k.received[0], `250ms ["1","1","$socket","phx_reply"`) ||
			k.received[1] != "250ms advice restart 0" || k.received[2] != "1.05s close 1012" {
			t.Errorf("received %q", k.received)
		}
	})
}

// TestDrainingHandshakes checks the answer to handshakes that begin, or are under way, when the
// handler shuts down.
func TestDrainingHandshakes(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	h := NewHandler(Config{Connect: func(ctx context.Context, _ *Request) (context.Context, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	get := func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/longpoll?vsn=2.0.0", nil))
		if w.Code != http.StatusServiceUnavailable || !isRetryAfter(w.Header()) {
			t.Errorf("%d, %v", w.Code, w.Header())
		}
	}
	under := make(chan struct{})
	go func() { defer close(under); get() }()
	<-begun
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-under
	get()
}

// isRetryAfter reports whether an answer has a Retry-After of 1 to 5 s.
func isRetryAfter(h http.Header) bool {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	return err == nil && seconds >= 1 && seconds <= 5
}

// TestAdviceOnTheWire checks the frame.
func TestAdviceOnTheWire(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		p    advicePayload
		want string
	}{
		{advicePayload{AfterMS: 1830, Reason: "restart", WithinMS: 10_000},
			`{"after_ms":1830,"reason":"restart","within_ms":10000}`},
		{advicePayload{Reason: "move"}, `{"after_ms":0,"reason":"move"}`},
	} {
		if got, err := json.Marshal(tt.p); err != nil || string(got) != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}
