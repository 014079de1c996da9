package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// line is a session on an in-memory connection, in virtual time.
type line struct {
	t   *testing.T
	h   *Handler
	s   *session
	log *strings.Builder

	mu     sync.Mutex
	frames []string
}

func (l *line) Send(f *serializer.Frame, _ transport.Delivery) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frames = append(l.frames, string(f.Data))
	return nil
}

func (l *line) Close(int, string) {}

func (l *line) Congested(func()) bool { return false }
func (l *line) Drained(func()) bool   { return true }

func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

func newLine(t *testing.T, cfg Config) *line {
	l := &line{t: t, log: new(strings.Builder)}
	logger := zerolog.New(l)
	cfg.Logger = &logger
	l.h = NewHandler(cfg)
	l.s = l.h.open(l, serializer.V2(), identity{parent: context.Background()})
	return l
}

func (l *line) send(frames ...string) {
	l.t.Helper()
	for _, f := range frames {
		if err := l.s.Receive(serializer.OpText, []byte(f)); err != nil {
			l.t.Fatalf("%s: %v", f, err)
		}
	}
}

func (l *line) want(frames ...string) {
	l.t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.frames, frames) {
		l.t.Errorf("got\n  %s\nwant\n  %s", strings.Join(l.frames, "\n  "), strings.Join(frames, "\n  "))
	}
	l.frames = nil
}

// logged returns the number of lines of the log that contain what.
func (l *line) logged(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.log.String(), what)
}

func join(ref, topic string) string {
	return fmt.Sprintf(`["%s","%s","%s","phx_join",{}]`, ref, ref, topic)
}

func answer(ref, topic, status, response string) string {
	return fmt.Sprintf(`["%s","%s","%s","phx_reply",{"status":"%s","response":%s}]`, ref, ref, topic, status, response)
}

func accepted(ref, topic string) string { return answer(ref, topic, "ok", "{}") }

func refusedFor(ref, topic, reason string) string {
	return answer(ref, topic, "error", fmt.Sprintf(`{"reason":"%s"}`, reason))
}

type member struct{}

// rooms returns channels whose join and event "hang" wait for the gate. Ends receives the reasons
// of Terminate.
func rooms(gate <-chan struct{}, ends chan<- error) channel.Routes {
	room := channel.Define(func(_ *member, _ context.Context, c *channel.Channel, p struct{ Hang bool }) (any, error) {
		if p.Hang {
			<-gate
		}
		return nil, nil
	},
		channel.On("hang", func(*member, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			<-gate
			return push.NoReply, nil
		}),
		channel.Terminate(func(_ *member, _ context.Context, _ *channel.Channel, reason error) { ends <- reason }))
	return channel.Routes{"room:*": room}
}

func hangingJoin(ref, topic string) string {
	return fmt.Sprintf(`["%s","%s","%s","phx_join",{"hang":true}]`, ref, ref, topic)
}

// TestJoinTimeout checks that the client of a join that never returns receives an error reply.
// Other topics are not delayed, and the topic can be joined again.
func TestJoinTimeout(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		set, want time.Duration
	}{{"default", 0, 30 * time.Second}, {"short", 20 * time.Millisecond, 20 * time.Millisecond},
		{"long", time.Hour, time.Hour}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				gate, ends := make(chan struct{}), make(chan error, 10)
				l := newLine(t, Config{Channels: rooms(gate, ends), JoinTimeout: test.set})
				begun := time.Now()
				l.send(hangingJoin("1", "room:1"))
				if test.want > joinWait {
					l.send(join("2", "room:2"))
					l.want(accepted("2", "room:2"))
					l.send(`[null,"3","phoenix","heartbeat",{}]`)
					l.want(`[null,"3","phoenix","phx_reply",{"status":"ok","response":{}}]`)
					time.Sleep(time.Until(begun.Add(test.want - 1)))
					l.want()
					time.Sleep(time.Nanosecond)
				}
				l.want(refusedFor("1", "room:1", "join crashed"))
				l.send(`["1","4","room:1","x",{}]`)
				l.want(`[null,"4","room:1","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`)
				again := time.Now()
				l.send(join("5", "room:1"))
				l.want(accepted("5", "room:1"))
				if d := time.Since(again); d != 0 {
					t.Errorf("the new join took %v", d)
				}
				if s := l.h.Stats(); s.SlowJoins != 1 || s.Crashes != 0 || l.logged("join took too long") != 1 {
					t.Errorf("%+v, log: %s", s, l.log)
				}
				close(gate)
				synctest.Wait()
				if reason := <-ends; !errors.Is(reason, channel.ErrJoinTimeout) {
					t.Errorf("terminated with %v", reason)
				}
				l.s.Closed(errors.New("over"))
			})
		})
	}
}

func TestNoJoinTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		l := newLine(t, Config{Channels: rooms(gate, make(chan error, 10)), JoinTimeout: -1})
		l.send(hangingJoin("1", "room:1"))
		time.Sleep(24 * time.Hour)
		l.want()
		close(gate)
		l.want(accepted("1", "room:1"))
		l.s.Closed(errors.New("over"))
	})
}

// TestJoinTimeoutOfMany checks that each of several joins that hang has its own timeout, including
// those for which the reader does not wait.
func TestJoinTimeoutOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		l := newLine(t, Config{Channels: rooms(gate, make(chan error, 10)), JoinTimeout: time.Minute})
		for i := range 3 {
			l.send(hangingJoin(fmt.Sprint(i), fmt.Sprintf("room:%d", i)))
			time.Sleep(time.Second)
		}
		time.Sleep(57*time.Second + joinWait)
		for i := range 3 {
			l.want(refusedFor(fmt.Sprint(i), fmt.Sprintf("room:%d", i), "join crashed"))
			time.Sleep(time.Second)
		}
		if n := l.s.unanswered.Load(); n != 0 {
			t.Errorf("%d joins have no reply", n)
		}
		close(gate)
		l.s.Closed(errors.New("over"))
	})
}

// TestMaxRunningChannels checks that callbacks that do not return are bounded, including those of
// topics that were joined again.
func TestMaxRunningChannels(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hang func(ref string) []string
		want func(ref string) []string // after a minute
		stat func(Stats) uint64
	}{
		"joins": {
			func(ref string) []string { return []string{hangingJoin(ref, "room:1")} },
			func(ref string) []string { return []string{refusedFor(ref, "room:1", "join crashed")} },
			func(s Stats) uint64 { return s.SlowJoins },
		},
		"events": {
			func(ref string) []string {
				return []string{join(ref, "room:1"), fmt.Sprintf(`["%s",null,"room:1","hang",{}]`, ref)}
			},
			func(ref string) []string {
				if ref == "0" {
					return []string{accepted(ref, "room:1")}
				}
				return []string{accepted(ref, "room:1"), fmt.Sprintf(`["%c","%c","room:1","phx_close",{}]`, ref[0]-1, ref[0]-1)}
			},
			func(s Stats) uint64 { return s.Stuck + 1 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				l := newLine(t, Config{Channels: rooms(gate, make(chan error, 100)), MaxChannels: 3})
				for i := range 6 {
					l.send(test.hang(fmt.Sprint(i))...)
					time.Sleep(time.Minute)
					l.want(test.want(fmt.Sprint(i))...)
				}
				for range 5 {
					l.send(join("7", "room:1"), join("8", "room:2"))
					l.want(refusedFor("7", "room:1", "too many channels joined"),
						refusedFor("8", "room:2", "too many channels joined"))
				}
				l.send(`[null,"9","phoenix","heartbeat",{}]`)
				l.want(`[null,"9","phoenix","phx_reply",{"status":"ok","response":{}}]`)
				if s := l.h.Stats(); s.TooMany != 10 || test.stat(s) != 6 || s.Crashes != 0 {
					t.Errorf("%+v", s)
				}
				if n := l.logged("MaxChannels"); n != 1 {
					t.Errorf("logged %d times", n)
				}
				close(gate)
				synctest.Wait()
				l.send(join("9", "room:2"))
				l.want(accepted("9", "room:2"))
				l.s.Closed(errors.New("over"))
			})
		})
	}
}

// TestRefusalsAreLoggedOnce checks that all refusals are counted, and that each socket logs the
// first of each kind.
func TestRefusalsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1025)
	for name, test := range map[string]struct {
		cfg   Config
		first []string // accepted messages
		frame string
		log   string
		stat  func(Stats) uint64
	}{
		"unmatched": {Config{}, nil, join("1", "nope"), "unmatched topic", func(s Stats) uint64 { return s.NoTopic }},
		"channels": {
			Config{MaxChannels: 1}, []string{join("1", "room:1")},
			join("2", "room:2"), "MaxChannels", func(s Stats) uint64 { return s.TooMany },
		},
		"joins": {
			Config{JoinRate: 1}, []string{join("1", "room:1"), join("1", "room:2")},
			join("2", "room:1"), "JoinRate", func(s Stats) uint64 { return s.FastJoins },
		},
		"messages": {
			Config{MessageRate: 1}, []string{`[null,"1","a","b",{}]`, `[null,"1","a","b",{}]`},
			`[null,"1","a","b",{}]`, "MessageRate", func(s Stats) uint64 { return s.FastMessages },
		},
		"topic": {Config{}, nil, join("1", long), "topic too long", func(s Stats) uint64 { return s.TooLong }},
		"event": {
			Config{}, []string{join("1", "room:1")},
			`["1","1","room:1","` + long + `",{}]`, "event too long", func(s Stats) uint64 { return s.TooLong },
		},
		"ref": {Config{}, nil, join(long, "room:1"), "ref too long", func(s Stats) uint64 { return s.TooLong }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				test.cfg.Channels = rooms(nil, make(chan error, 10))
				l := newLine(t, test.cfg)
				sessions := []*session{l.s, l.h.open(l, serializer.V2(), identity{parent: context.Background()})}
				for i, s := range sessions {
					l.s = s
					l.send(test.first...)
					for range 5 {
						l.send(test.frame)
					}
					if n := l.logged(test.log); n != i+1 {
						t.Errorf("logged %d times", n)
					}
				}
				if n := test.stat(l.h.Stats()); n != 10 {
					t.Errorf("counted %d: %+v", n, l.h.Stats())
				}
				for _, s := range sessions {
					s.Closed(errors.New("over"))
				}
			})
		})
	}
}

func TestHandshakesBeyondTheRateAreLoggedRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refuses := func(context.Context, *Request) (context.Context, error) { return nil, &Refusal{} }
		l := newLine(t, Config{HandshakeRate: 1, Connect: refuses})
		shake := func() {
			r := httptest.NewRequest(http.MethodGet, "/socket/longpoll?vsn=2.0.0", nil)
			l.h.ServeHTTP(httptest.NewRecorder(), r)
		}
		for minute := range 3 {
			for range 20 {
				shake()
			}
			if n := l.logged("HandshakeRate"); n != minute+1 {
				t.Errorf("logged %d times after %d minutes", n, minute)
			}
			time.Sleep(time.Minute)
		}
		if n := l.h.Stats().TooFast; n != 54 {
			t.Errorf("counted %d", n)
		}
		l.s.Closed(errors.New("over"))
	})
}

func TestEndsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		l := newLine(t, Config{Channels: rooms(gate, make(chan error, 10)), MaxMailbox: 300})
		l.send(join("1", "room:1"))
		for range 10 {
			l.send(`["1",null,"room:1","hang",{}]`)
		}
		synctest.Wait()
		if s := l.h.Stats(); s.FullMailboxes != 1 || s.Crashes != 0 || l.logged("mailbox is full") != 1 {
			t.Errorf("a full mailbox: %+v, log: %s", s, l.log)
		}
		close(gate)
		deep := `["1","1","room:1","x",` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `]`
		err := l.s.Receive(serializer.OpText, []byte(deep))
		var closed *transport.CloseError
		if !errors.As(err, &closed) || closed.Code != transport.CodeInternal {
			t.Errorf("deep JSON: %v", err)
		}
		l.s.Closed(err)
		for _, err := range []error{transport.ErrIdle, transport.ErrFull, &transport.CloseError{Code: transport.CodeTooBig}} {
			l.h.open(l, serializer.V2(), identity{parent: context.Background()}).Closed(err)
		}
		if s := l.h.Stats(); s.BadMessages != 1 || s.Sockets != 0 { // the transport counts the other one
			t.Errorf("%+v", s)
		}
		for _, what := range []string{"malformed message\"", "sent nothing for too long", "reads too slowly", "MaxMessage"} {
			if l.logged(what) != 1 {
				t.Errorf("%q is not in the log: %s", what, l.log)
			}
		}
		if l.logged("[[[[") != 0 {
			t.Error("the payload is in the log")
		}
	})
}
