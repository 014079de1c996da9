package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// crashing returns rooms that crash on the event "crash" and on unknown events.
func crashing() channel.Routes {
	return channel.Routes{"room:*": echoes(onEvent("crash",
		func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, errors.New("on purpose")
		}), channel.On("typed", func(*nobody, context.Context, *channel.Channel, struct{ N int }) (push.Reply, error) {
		return push.NoReply, nil
	}))}
}

// TestFloodsDoNotFloodTheLog checks that 300 events of each kind that a client can cause result in
// a few lines of the log.
func TestFloodsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	const many = 300
	for name, flood := range map[string]func(t *testing.T, s *server){
		"origins": func(t *testing.T, s *server) {
			for range many {
				_, resp, err := s.tryDial("vsn=2.0.0", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.test"}}})
				if err == nil || resp.StatusCode != http.StatusForbidden {
					t.Fatalf("%v", err)
				}
			}
		},
		"origins by long poll": func(t *testing.T, s *server) {
			for range many {
				r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/socket/longpoll?vsn=2.0.0", nil)
				r.Header.Set("Origin", "http://evil.test")
				s.do(r)
			}
		},
		"handshakes": func(t *testing.T, s *server) {
			for range many {
				if _, _, err := s.tryDial("vsn=2.0.0&refuse=1", nil); err == nil {
					t.Fatal("it was taken")
				}
			}
		},
		"handshakes by long poll": func(t *testing.T, s *server) {
			for range many {
				r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/socket/longpoll?vsn=2.0.0&refuse=1", nil)
				s.do(r)
			}
		},
		"versions": func(t *testing.T, s *server) {
			for i := range many {
				if _, _, err := s.tryDial(fmt.Sprintf("vsn=9.0.%d", i), nil); err == nil {
					t.Fatal("it was taken")
				}
			}
		},
		"crashes": func(_ *testing.T, s *server) {
			p := s.dial("vsn=2.0.0")
			for range many {
				p.join("room:1")
				p.send(`["1","2","room:1","crash",{}]`)
				p.want(`["1","1","room:1","phx_error",{"reason":"channel_crash"}]`)
			}
		},
		"malformed messages": func(_ *testing.T, s *server) {
			for range many {
				p := s.dial("vsn=2.0.0")
				p.send("[")
				p.wantClose(1011)
			}
		},
		"refusals, one for each socket": func(_ *testing.T, s *server) {
			for range many {
				p := s.dial("vsn=2.0.0")
				p.send(`["1","1","nope","phx_join",{}]`)
				p.want(`[null,"1","nope","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]`)
				p.c.CloseNow()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t,
				socket.Config{Channels: crashing(), Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
					if r.HTTP.URL.Query().Has("refuse") {
						return nil, errors.New("no")
					}
					return ctx, nil
				}})
			flood(t, s)
			if n := strings.Count(s.log.String(), "\n"); n == 0 || n > 30 {
				t.Errorf("%d lines", n)
			}
		})
	}
}

// TestSuppressedLinesAreCounted checks that the log contains the number of suppressed lines.
func TestSuppressedLinesAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		logger := zerolog.New(&log)
		h := socket.NewHandler(socket.Config{Logger: &logger,
			Connect: func(context.Context, *socket.Request) (context.Context, error) {
				return nil, errors.New("no")
			}})
		refuse := func() {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/longpoll?vsn=2.0.0", nil)
			h.ServeHTTP(&discardWriter{}, r)
		}
		for range 50 {
			refuse()
		}
		first := strings.Count(log.String(), "socket refused")
		time.Sleep(time.Minute)
		refuse()
		if !strings.Contains(log.String(), fmt.Sprintf(`"suppressed":%d`, 50-first)) {
			t.Errorf("%d lines first, then %s", first, log.String())
		}
	})
}

type discardWriter struct{ header http.Header }

func (w *discardWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}
func (*discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (*discardWriter) WriteHeader(int)             {}

// TestClientTextInLogs checks that text of a client neither controls a terminal nor adds lines to
// the log.
func TestClientTextInLogs(t *testing.T) {
	t.Parallel()
	const hostile = "x\x1b[2J\nERR forged line\r\u202Egnp\u009b31m\u200b"
	json := strings.NewReplacer("\x1b", `\u001b`, "\n", `\n`, "\r", `\r`).Replace(hostile)
	for name, write := range map[string]func(l *logged) zerolog.Logger{
		"JSON":    func(l *logged) zerolog.Logger { return zerolog.New(l) },
		"console": func(l *logged) zerolog.Logger { return zerolog.New(zerolog.ConsoleWriter{Out: l, NoColor: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t,
				socket.Config{Channels: crashing(), Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
					if why := r.HTTP.URL.Query().Get("why"); why != "" {
						return nil, errors.New(why)
					}
					return ctx, nil
				}})
			log := &logged{}
			*s.logger = write(log)
			p := s.dial("vsn=2.0.0")
			p.join("room:1")
			p.send(`["1","2","room:1","` + json + `",{}]`) // an unknown event crashes the channel
			p.want(`["1","1","room:1","phx_error",{"reason":"channel_crash"}]`)
			p.send(`["1","1","nope` + json + `","phx_join",{}]`)
			if _, err := p.read(); err != nil {
				t.Fatal(err)
			}
			p.send(`["1","1","room:` + json + `","phx_join",{}]`)
			if _, err := p.read(); err != nil {
				t.Fatal(err)
			}
			p.send(`["1","2","room:` + json + `","crash",{}]`)
			if _, err := p.read(); err != nil {
				t.Fatal(err)
			}
			p.join("room:2")
			p.send(`["1","2","room:2","typed",[]]`)
			if _, err := p.read(); err != nil {
				t.Fatal(err)
			}
			for _, target := range []string{"/socket/longpoll?vsn=2.0.0&why=%1b%5b2J%0aforged%c2%9b",
				"/%1b%5b2J%0a/longpoll?vsn=%1b%5b2J"} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+target, nil)
				if err != nil {
					t.Fatal(err)
				}
				s.h.ServeHTTP(&discardWriter{}, r)
				r.Header.Set("Origin", "http://"+hostile)
				s.h.ServeHTTP(&discardWriter{}, r)
			}
			lines := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
			if len(lines) < 6 {
				t.Errorf("%d lines", len(lines))
			}
			for _, line := range lines {
				if i := strings.IndexFunc(line, func(c rune) bool { return !unicode.IsPrint(c) }); i >= 0 {
					t.Errorf("%q is not printable", line)
				}
				if strings.HasPrefix(line, "ERR forged") {
					t.Errorf("%q is a line of the client", line)
				}
				if message, _, _ := strings.Cut(line, " error="); name == "console" && strings.Contains(message, "2J") &&
					!strings.Contains(message, "=") {
					t.Errorf("%q has the client's text in its message", line)
				}
				if _, message, _ := strings.Cut(line, `"message":`); name == "JSON" && (strings.Contains(message, "2J") ||
					strings.Contains(message, "typed")) {
					t.Errorf("%q has the client's text in its message", line)
				}
			}
		})
	}
}
