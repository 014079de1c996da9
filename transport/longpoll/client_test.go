package longpoll_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// withClient runs f in virtual time with a server and a connection to it.
func withClient(
	t *testing.T, s *transporttest.LongPollServer, cfg transport.ClientConfig,
	f func(t *testing.T, n *transporttest.Net, c transport.ClientConn),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.Out = make(chan string, 1000)
		n := transporttest.NewNet(t, s)
		cfg.HTTPClient = n.Client
		f(t, n, transporttest.Dial(t, longpoll.Dial, cfg))
	})
}

// The URL and headers of every kind of request, with the token in a header only.
func TestClientRequests(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	withClient(t, s, transport.ClientConfig{
		URL: "ws://server/socket?x=y", Params: "a=1", AuthToken: "secret ü", Header: http.Header{"X-Mine": {"1"}, "Host": {"elsewhere"}},
	}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		c.Write(transporttest.Text(`["1","1","t","e",{}]`))
		synctest.Wait()
		for _, tt := range []struct {
			r           *http.Request
			token, auth string
			accept      string
			contentType string
		}{
			{s.Request("GET", 0), "", "secret ü", "application/json", ""},
			{s.Request("GET", 1), "T", "secret ü", "application/json", ""},
			{s.Request("POST", 0), "T", "", "", "application/x-ndjson"},
		} {
			h := tt.r.Header
			if tt.r.RequestURI != "/socket/longpoll?x=y&a=1&vsn=2.0.0" || tt.r.Host != "elsewhere" {
				t.Errorf("%s %s on %s", tt.r.Method, tt.r.RequestURI, tt.r.Host)
			}
			for name, want := range map[string]string{
				"X-Phoenix-Longpoll-Token": tt.token,
				"X-Phoenix-AuthToken":      tt.auth,
				"Accept":                   tt.accept,
				"Content-Type":             tt.contentType,
				"X-Mine":                   "1",
			} {
				if h.Get(name) != want {
					t.Errorf("%s: %s: %q, want %q", tt.r.Method, name, h.Get(name), want)
				}
			}
		}
	})
}

// A server that may not read the header gets the token in the query as well. Phoenix before 1.8.10
// sets no Cache-Control, and Plug sets another one by default.
func TestClientTokenInQuery(t *testing.T) {
	t.Parallel()
	for name, cache := range map[string][]string{
		"none":   nil,
		"Plug's": {"max-age=0, private, must-revalidate"},
		"two":    {"max-age=0", "no-store"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := transporttest.NewLongPollServer()
			s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 0 {
					w.Header()["Cache-Control"] = cache
					io.WriteString(w, `{"status":410,"token":"a+b/c=","messages":[]}`)
				}
				return i == 0
			}
			withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
				c.Write(transporttest.Text(`[]`))
				synctest.Wait()
				for _, r := range []*http.Request{s.Request("GET", 1), s.Request("POST", 0)} {
					const uri = "/socket/longpoll?vsn=2.0.0&token=a%2Bb%2Fc%3D"
					if r.RequestURI != uri || r.Header.Get("X-Phoenix-Longpoll-Token") != "a+b/c=" {
						t.Errorf("%s %s %v", r.Method, r.RequestURI, r.Header)
					}
				}
			})
		})
	}
}

// A server that does not read the header, behind a proxy that adds no-store, begins a second
// session. The client uses that one.
func TestClientTokenHeaderNotRead(t *testing.T) {
	t.Parallel()
	for _, slow := range []string{"none", "poll", "post"} {
		t.Run("slow: "+slow, func(t *testing.T) {
			t.Parallel()
			s := transporttest.NewLongPollServer()
			var mu sync.Mutex
			sessions := 0
			known := func(r *http.Request) bool {
				return sessions > 0 && r.URL.Query().Get("token") == fmt.Sprint("T", sessions)
			}
			s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 1 && slow == "poll" {
					time.Sleep(time.Second)
				}
				mu.Lock()
				defer mu.Unlock()
				if known(r) {
					return false
				}
				sessions++
				transporttest.Answer(w, 410, fmt.Sprint("T", sessions))
				return true
			}
			var got []string
			s.Post = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 0 && slow == "post" {
					time.Sleep(time.Second)
				}
				mu.Lock()
				defer mu.Unlock()
				if !known(r) {
					transporttest.Answer(w, 410, "")
					return true
				}
				got = append(got, s.Posted()[i])
				return false
			}
			withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
				c.Write(transporttest.Text(`["join"]`))
				c.Write(transporttest.Text(`["push"]`))
				time.Sleep(5 * time.Second)
				s.Out <- `["reply"]`
				transporttest.Wants(t, c, serializer.OpText, `["reply"]`)
				mu.Lock()
				defer mu.Unlock()
				if sessions != 2 || strings.Join(got, "\n") != "[\"join\"]\n[\"push\"]" {
					t.Errorf("%d sessions, %q posted", sessions, got)
				}
			})
		})
	}
}

// The first answer determines the result of Dial.
func TestClientOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		http   int
		body   string
		status int // of the HandshakeError; 0 if Dial succeeds
	}{
		{"session", 200, `{"status":410,"token":"T","messages":[]}`, 0},
		{"session, with more", 200, ` {"messages":null,"more":{"a":[1]},"token":"T","status":410} `, 0},
		{"refused", 200, `{"status":403}`, 403},
		{"overloaded", 200, `{"status":503}`, 503},
		{"not mounted", 404, "404 page not found", 404},
		{"unauthorized by a proxy", 401, `{"status":410,"token":"T"}`, 401},
		{"bad gateway", 502, "<html>", 502},
		{"moved without a place", 302, "", 302},
		{"web page", 200, "<html>log in</html>", 200},
		{"empty", 200, "", 200},
		{"no token", 200, `{"status":410,"messages":[]}`, 200},
		{"empty token", 200, `{"status":410,"token":""}`, 200},
		{"token with a line break", 200, `{"status":410,"token":"a\r\nX-Evil: 1"}`, 200},
		{"token that is not a string", 200, `{"status":410,"token":7}`, 200},
		{"huge token", 200, `{"status":410,"token":"` + strings.Repeat("x", 9000) + `"}`, 200},
		{"nothing new", 200, `{"status":204,"token":"T","messages":[]}`, 200},
		{"messages", 200, `{"status":200,"token":"T","messages":["[]"]}`, 200},
		{"not an object", 200, `[410]`, 200},
		{"odd status", 200, `{"status":"410","token":"T"}`, 200},
		{"two values", 200, `{"status":410,"token":"T"}{}`, 200},
		{"cut", 200, `{"status":410,"token":"T"`, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := transporttest.NewLongPollServer()
			s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 0 {
					w.Header().Set("X-Why", "because")
					w.WriteHeader(tt.http)
					io.WriteString(w, tt.body)
				}
				return i == 0
			}
			n := transporttest.NewNet(t, s)
			c, err := longpoll.Dial(t.Context(), &transport.ClientConfig{URL: "ws://server/socket", Params: "secret=1", HTTPClient: n.Client})
			if tt.status == 0 {
				if err != nil {
					t.Fatal(err)
				}
				c.Close(1000, "")
				return
			}
			var refused *transport.HandshakeError
			if !errors.As(err, &refused) || strings.Contains(err.Error(), "secret") {
				t.Fatalf("dial: %v", err)
			}
			want := tt.body
			if len(want) > 4096 {
				want = want[:4096]
			}
			if refused.StatusCode != tt.status || string(refused.Body) != want || refused.Header.Get("X-Why") != "because" {
				t.Errorf("%d %v %q", refused.StatusCode, refused.Header, refused.Body)
			}
		})
	}
}

func TestClientDialContext(t *testing.T) {
	t.Parallel()
	for name, stall := range map[string]func(w http.ResponseWriter){
		"no answer": func(http.ResponseWriter) {},
		"half an answer": func(w http.ResponseWriter) {
			io.WriteString(w, `{"status":410,`)
			w.(http.Flusher).Flush()
		},
		"half a refusal": func(w http.ResponseWriter) {
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := transporttest.NewLongPollServer()
				s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
					stall(w)
					<-r.Context().Done()
					return true
				}
				n := transporttest.NewNet(t, s)
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
				defer cancel()
				transporttest.Within(t, 7*time.Second, func() {
					_, err := longpoll.Dial(ctx, &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client})
					if !errors.Is(err, context.DeadlineExceeded) && name != "half a refusal" || err == nil {
						t.Errorf("dial: %v", err)
					}
				})
				transporttest.Within(t, 30*time.Second, func() {
					if _, err := longpoll.Dial(t.Context(), &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client}); err == nil {
						t.Error("dial without a deadline: no error")
					}
				})
			})
		})
	}
	t.Run("bounds nothing afterwards", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := transporttest.NewLongPollServer()
			n := transporttest.NewNet(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			c, err := longpoll.Dial(ctx, &transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(1000, "")
			cancel()
			s.Out <- "[1]"
			transporttest.Wants(t, c, serializer.OpText, "[1]")
		})
	})
}

// Messages arrive in order. A poll follows each answer at once.
func TestClientReceives(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		binary := "\x00\x01\x02\xff"
		for _, tt := range []struct {
			sent string
			op   serializer.Op
			want string
		}{
			{`["1",null,"t","e",{"x":"ü\n"}]`, serializer.OpText, `["1",null,"t","e",{"x":"ü\n"}]`},
			{`{"topic":"t"}`, serializer.OpText, `{"topic":"t"}`},
			{base64.StdEncoding.EncodeToString([]byte(binary)), serializer.OpBinary, binary},
			{"\x01\x00raw", serializer.OpBinary, "\x01\x00raw"},
			{"garbage!", serializer.OpText, "garbage!"},
			{"", 0, ""},
			{"[2]", serializer.OpText, "[2]"},
		} {
			s.Out <- tt.sent
			s.Out <- "[3]"
			if tt.op != 0 {
				transporttest.Wants(t, c, tt.op, tt.want)
			}
			transporttest.Wants(t, c, serializer.OpText, "[3]")
		}
		for i := range 100 {
			s.Out <- fmt.Sprintf("[%d]", i)
		}
		for i := range 100 {
			transporttest.Wants(t, c, serializer.OpText, fmt.Sprintf("[%d]", i))
		}
	})
}

// An hour without messages takes one poll for each window, and nothing else.
func TestClientIdle(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		time.Sleep(time.Hour)
		synctest.Wait()
		if gets, posts := s.Counts(); gets < 361 || gets > 362 || posts != 0 {
			t.Errorf("%d GETs, %d POSTs in an hour", gets, posts)
		}
		if conns := n.Conns.Load(); conns != 1 {
			t.Errorf("%d connections, want one that is kept", conns)
		}
	})
}

// The timeout of the user's http.Client does not bound polls and connections.
func TestClientIgnoresHTTPClientTimeout(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]transporttest.Dialer{"ws": websocket.Dial, "longpoll": longpoll.Dial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := transporttest.NewNet(t, transporttest.Endpoint())
				n.Timeout = time.Second
				c := transporttest.Dial(t, dial, transport.ClientConfig{HTTPClient: n.Client})
				time.Sleep(time.Minute)
				if err := c.Write(transporttest.Text("[]")); err != nil {
					t.Error(err)
				}
				if name == "ws" {
					transporttest.Wants(t, c, serializer.OpText, "[]")
				}
				if err := c.Close(1000, ""); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A server that does not hold polls is not polled as fast as it answers.
func TestClientPausesAfterQuickAnswers(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i > 0 && i < 1000 {
			transporttest.Answer(w, []int{200, 204}[i%2], "T")
		}
		return i > 0 && i < 1000
	}
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		time.Sleep(time.Minute)
		if gets, _ := s.Counts(); gets > 100 {
			t.Errorf("%d GETs in a minute", gets)
		}
	})
}

// A client that does not read stops polling, which slows its server down.
func TestClientStopsPollingWithoutReads(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i > 0 {
			transporttest.Answer(w, 200, "T", "["+strconv.Itoa(i)+"]")
		}
		return i > 0
	}
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		time.Sleep(time.Minute)
		if gets, _ := s.Counts(); gets != 2 {
			t.Errorf("%d GETs without a Read, want 2", gets)
		}
		for i := 1; i < 100; i++ {
			transporttest.Wants(t, c, serializer.OpText, "["+strconv.Itoa(i)+"]")
		}
		if gets, _ := s.Counts(); gets > 102 {
			t.Errorf("%d GETs for 99 messages", gets)
		}
	})
}
