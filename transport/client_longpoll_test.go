package transport_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// clientLP is a long-poll server for one client. It keeps what it is asked, and answers as a healthy one, unless a test has
// something else to say.
type clientLP struct {
	// get answers the i-th GET from 0 on, post the i-th POST. They return false for the usual answer.
	get  func(i int, w http.ResponseWriter, r *http.Request) bool
	post func(i int, w http.ResponseWriter, r *http.Request) bool

	mu     sync.Mutex
	gets   []*http.Request
	posts  []*http.Request
	bodies []string // of posts
	out    chan string
}

func newClientLP() *clientLP { return &clientLP{out: make(chan string, 1000)} }

func (s *clientLP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	all, own := &s.gets, s.get
	if r.Method == http.MethodPost {
		all, own = &s.posts, s.post
		s.bodies = append(s.bodies, string(body))
	}
	i := len(*all)
	*all = append(*all, r)
	s.mu.Unlock()
	if own != nil && own(i, w, r) {
		return
	}
	if r.Method == http.MethodPost {
		clientAnswer(w, 200, "")
		return
	}
	if i == 0 {
		clientAnswer(w, 410, "T")
		return
	}
	window := time.NewTimer(10 * time.Second)
	defer window.Stop()
	select {
	case m := <-s.out:
		messages := []string{m}
		for {
			select {
			case m := <-s.out:
				messages = append(messages, m)
				continue
			default:
			}
			break
		}
		clientAnswer(w, 200, "T", messages...)
	case <-window.C:
		clientAnswer(w, 204, "T")
	case <-r.Context().Done():
	}
}

// posted returns the bodies so far.
func (s *clientLP) posted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...)
}

func (s *clientLP) counts() (gets, posts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gets), len(s.posts)
}

func (s *clientLP) request(method string, i int) *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if method == http.MethodPost {
		return s.posts[i]
	}
	return s.gets[i]
}

// clientAnswer is an answer of a Phoenix since 1.8.10.
func clientAnswer(w http.ResponseWriter, status int, token string, messages ...string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header()["Cache-Control"] = append(w.Header()["Cache-Control"], "no-store")
	body := map[string]any{"status": status}
	if token != "" {
		if messages == nil {
			messages = []string{}
		}
		body["token"], body["messages"] = token, messages
	}
	json.NewEncoder(w).Encode(body)
}

// clientLPTest runs f in a bubble with a server and a connection to it.
func clientLPTest(t *testing.T, s *clientLP, cfg transport.ClientConfig, f func(t *testing.T, n *clientNet, c transport.ClientConn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.out = make(chan string, 1000)
		n := newClientNet(t, s)
		cfg.HTTPClient = n.Client
		f(t, n, clientDial(t, transport.DialLongPoll, cfg))
	})
}

// Checklist J223, J225, J226 and wire.md 9.3: URLs and headers of every kind of request, where a token goes by header only.
func TestClientLPRequests(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	clientLPTest(t, s, transport.ClientConfig{
		URL: "ws://server/socket?x=y", Params: "a=1", AuthToken: "secret ü", Header: http.Header{"X-Mine": {"1"}, "Host": {"elsewhere"}},
	}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		if c.Heartbeats() {
			t.Error("wants heartbeats")
		}
		c.Write(clientText(`["1","1","t","e",{}]`))
		synctest.Wait()
		for _, tt := range []struct {
			r           *http.Request
			token, auth string
			accept      string
			contentType string
		}{
			{s.request("GET", 0), "", "secret ü", "application/json", ""},
			{s.request("GET", 1), "T", "secret ü", "application/json", ""},
			{s.request("POST", 0), "T", "", "", "application/x-ndjson"},
		} {
			h := tt.r.Header
			if tt.r.RequestURI != "/socket/longpoll?x=y&a=1&vsn=2.0.0" || tt.r.Host != "elsewhere" {
				t.Errorf("%s %s on %s", tt.r.Method, tt.r.RequestURI, tt.r.Host)
			}
			if h.Get("X-Phoenix-Longpoll-Token") != tt.token || h.Get("X-Phoenix-AuthToken") != tt.auth || h.Get("Accept") != tt.accept ||
				h.Get("Content-Type") != tt.contentType || h.Get("X-Mine") != "1" {
				t.Errorf("%s: %v", tt.r.Method, h)
			}
		}
	})
}

// A server that may not know the header gets the token in the query as well: Phoenix before 1.8.10 sets no Cache-Control, and Plug sets
// another by default.
func TestClientLPTokenInQuery(t *testing.T) {
	t.Parallel()
	for name, cache := range map[string][]string{"none": nil, "Plug's": {"max-age=0, private, must-revalidate"}, "two": {"max-age=0", "no-store"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newClientLP()
			s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 0 {
					w.Header()["Cache-Control"] = cache
					io.WriteString(w, `{"status":410,"token":"a+b/c=","messages":[]}`)
				}
				return i == 0
			}
			clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
				c.Write(clientText(`[]`))
				synctest.Wait()
				for _, r := range []*http.Request{s.request("GET", 1), s.request("POST", 0)} {
					if r.RequestURI != "/socket/longpoll?vsn=2.0.0&token=a%2Bb%2Fc%3D" || r.Header.Get("X-Phoenix-Longpoll-Token") != "a+b/c=" {
						t.Errorf("%s %s %v", r.Method, r.RequestURI, r.Header)
					}
				}
			})
		})
	}
}

// An old Phoenix behind a proxy that says no-store: it does not find the session by the header, and begins another.
func TestClientLPHeaderNotRead(t *testing.T) {
	t.Parallel()
	for _, slow := range []string{"none", "poll", "post"} {
		t.Run("slow: "+slow, func(t *testing.T) {
			t.Parallel()
			s := newClientLP()
			sessions := 0
			known := func(r *http.Request) bool {
				return sessions > 0 && r.URL.Query().Get("token") == fmt.Sprint("T", sessions)
			}
			s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 1 && slow == "poll" {
					time.Sleep(time.Second)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if known(r) {
					return false
				}
				sessions++
				clientAnswer(w, 410, fmt.Sprint("T", sessions))
				return true
			}
			var got []string
			s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 0 && slow == "post" {
					time.Sleep(time.Second)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if !known(r) {
					clientAnswer(w, 410, "")
					return true
				}
				got = append(got, s.bodies[i])
				return false
			}
			clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
				c.Write(clientText(`["join"]`))
				c.Write(clientText(`["push"]`))
				time.Sleep(5 * time.Second)
				s.out <- `["reply"]`
				clientWants(t, c, serializer.OpText, `["reply"]`)
				s.mu.Lock()
				defer s.mu.Unlock()
				if sessions != 2 || strings.Join(got, "\n") != "[\"join\"]\n[\"push\"]" {
					t.Errorf("%d sessions, %q posted", sessions, got)
				}
			})
		})
	}
}

// Checklist J224, J230: what the first answer makes of the dialing.
func TestClientLPOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		http   int
		body   string
		status int // of the HandshakeError; 0: opened
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
		{"token that is none", 200, `{"status":410,"token":7}`, 200},
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
			s := newClientLP()
			s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i == 0 {
					w.Header().Set("X-Why", "because")
					w.WriteHeader(tt.http)
					io.WriteString(w, tt.body)
				}
				return i == 0
			}
			n := newClientNet(t, s)
			c, err := transport.DialLongPoll(t.Context(), transport.ClientConfig{URL: "ws://server/socket", Params: "secret=1", HTTPClient: n.Client})
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

func TestClientLPDialContext(t *testing.T) {
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
				s := newClientLP()
				s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
					stall(w)
					<-r.Context().Done()
					return true
				}
				n := newClientNet(t, s)
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
				defer cancel()
				clientWithin(t, 7*time.Second, func() {
					_, err := transport.DialLongPoll(ctx, transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client})
					if !errors.Is(err, context.DeadlineExceeded) && name != "half a refusal" || err == nil {
						t.Errorf("dial: %v", err)
					}
				})
				clientWithin(t, 30*time.Second, func() {
					if _, err := transport.DialLongPoll(t.Context(), transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client}); err == nil {
						t.Error("dial without a deadline: no error")
					}
				})
			})
		})
	}
	t.Run("bounds nothing afterwards", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newClientLP()
			n := newClientNet(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			c, err := transport.DialLongPoll(ctx, transport.ClientConfig{URL: "ws://server/socket", HTTPClient: n.Client})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(1000, "")
			cancel()
			s.out <- "[1]"
			clientWants(t, c, serializer.OpText, "[1]")
		})
	})
}

// Checklist J231: messages in order, polls one after the other, at once after each answer.
func TestClientLPReceives(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
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
			s.out <- tt.sent
			s.out <- "[3]"
			if tt.op != 0 {
				clientWants(t, c, tt.op, tt.want)
			}
			clientWants(t, c, serializer.OpText, "[3]")
		}
		for i := range 100 {
			s.out <- fmt.Sprintf("[%d]", i)
		}
		for i := range 100 {
			clientWants(t, c, serializer.OpText, fmt.Sprintf("[%d]", i))
		}
	})
}

// An hour without messages is a poll every window, and nothing else.
func TestClientLPIdle(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		time.Sleep(time.Hour)
		synctest.Wait()
		if gets, posts := s.counts(); gets < 361 || gets > 362 || posts != 0 {
			t.Errorf("%d GETs, %d POSTs in an hour", gets, posts)
		}
		if conns := n.conns.Load(); conns != 1 {
			t.Errorf("%d connections, want one that is kept", conns)
		}
	})
}

// A server that does not wait must not be hammered.
func TestClientLPQuickAnswers(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i > 0 && i < 1000 {
			clientAnswer(w, []int{200, 204}[i%2], "T")
		}
		return i > 0 && i < 1000
	}
	clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		time.Sleep(time.Minute)
		if gets, _ := s.counts(); gets > 100 {
			t.Errorf("%d GETs in a minute", gets)
		}
	})
}

// A client that does not read does not poll on: its server is slowed down.
func TestClientLPSlowReader(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i > 0 {
			clientAnswer(w, 200, "T", "["+strconv.Itoa(i)+"]")
		}
		return i > 0
	}
	clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		time.Sleep(time.Minute)
		if gets, _ := s.counts(); gets != 2 {
			t.Errorf("%d GETs without a Read, want 2", gets)
		}
		for i := 1; i < 100; i++ {
			clientWants(t, c, serializer.OpText, "["+strconv.Itoa(i)+"]")
		}
		if gets, _ := s.counts(); gets > 102 {
			t.Errorf("%d GETs for 99 messages", gets)
		}
	})
}

// client.md 10 and checklist J224, J229, J230: how a session ends.
func TestClientLPEnds(t *testing.T) {
	t.Parallel()
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	cut := func(w http.ResponseWriter, r *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		conn.Close()
	}
	says := func(s string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, s) }
	}
	status := func(code int, s string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, s)
		}
	}
	half := func(w http.ResponseWriter, r *http.Request) {
		conn, buf, _ := w.(http.Hijacker).Hijack()
		buf.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"status\":200,")
		buf.Flush()
		conn.Close()
	}
	redirect := func(to string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	for _, tt := range []struct {
		name   string
		on     string
		answer func(http.ResponseWriter, *http.Request)
		code   int
		after  time.Duration
		cause  error
	}{
		{"gone", "GET", says(`{"status":410,"token":"T2","messages":[]}`), 3410, 0, nil},
		{"gone, and no more", "GET", says(`{"status":410}`), 3410, 0, nil},
		{"forbidden", "GET", says(`{"status":403}`), 1008, 0, nil},
		{"error", "GET", says(`{"status":500}`), 1011, 0, nil},
		{"unknown status", "GET", says(`{"status":299}`), 1011, 0, nil},
		{"no status", "GET", says(`{}`), 1011, 0, nil},
		{"a status that is none", "GET", says(`{"status":2e999}`), 1011, 0, nil},
		{"garbage", "GET", says("<html>"), 1011, 0, nil},
		{"nothing", "GET", says(""), 1011, 0, nil},
		{"messages of another kind", "GET", says(`{"status":200,"messages":[["1"]]}`), 1011, 0, nil},
		{"messages that are no list", "GET", says(`{"status":200,"messages":{}}`), 1011, 0, nil},
		{"deep", "GET", says(`{"status":200,"messages":` + strings.Repeat("[", 3000)), 1011, 0, nil},
		{"proxy's error", "GET", status(502, "bad gateway"), 1011, 0, nil},
		{"an error that looks fine", "GET", status(500, `{"status":200,"token":"T","messages":["[]"]}`), 1011, 0, nil},
		{"reset", "GET", cut, 1011, 0, nil},
		{"half an answer", "GET", half, 1011, 0, io.ErrUnexpectedEOF},
		{"redirected away", "GET", redirect("http://elsewhere/socket/longpoll?vsn=2.0.0"), 1011, 0, nil},
		{"redirected in a circle", "GET", redirect("/socket/longpoll?vsn=2.0.0"), 1011, 0, nil},
		{"hangs", "GET", hang, 1005, 30 * time.Second, context.DeadlineExceeded},
		{"hangs halfway", "GET", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"status":200,`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, 1005, 30 * time.Second, context.DeadlineExceeded},
		{"message too big", "GET", says(`{"status":200,"messages":["[]","[` + strings.Repeat("1", 1000) + `]"]}`), 1009, 0, nil},
		{"answer too big", "GET", says(`{"status":200,"x":"` + strings.Repeat("x", 4000) + `","messages":[]}`), 1009, 0, nil},
		{"endless answer", "GET", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat(" ", 10_000)); err != nil {
					return
				}
			}
		}, 1009, 0, nil},

		{"gone", "POST", says(`{"status":410}`), 1011, 10 * time.Second, nil},
		{"stuck", "POST", says(`{"status":408}`), 1011, 0, nil},
		{"error", "POST", status(500, "boom"), 1011, 0, nil},
		{"too large", "POST", status(400, ""), 1011, 0, nil},
		{"null", "POST", says(`null`), 1011, 0, nil},
		{"garbage", "POST", says(`ok`), 1011, 0, nil},
		{"reset", "POST", cut, 1011, 0, nil},
		{"redirected", "POST", redirect("/socket/longpoll?vsn=2.0.0"), 1011, 0, nil},
		{"hangs", "POST", hang, 1005, 30 * time.Second, context.DeadlineExceeded},
		{"endless answer", "POST", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat(" ", 10_000)); err != nil {
					return
				}
			}
		}, 1009, 0, nil},
	} {
		t.Run(tt.on+" "+tt.name, func(t *testing.T) {
			t.Parallel()
			s := newClientLP()
			if tt.on == "GET" {
				s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
					switch i {
					case 0:
						return false
					case 1:
						clientAnswer(w, 200, "T", `["first"]`)
					default:
						tt.answer(w, r)
					}
					return true
				}
			} else {
				s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
					tt.answer(w, r)
					return true
				}
			}
			clientLPTest(t, s, transport.ClientConfig{MaxMessage: 1000}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
				if tt.on == "GET" {
					clientWants(t, c, serializer.OpText, `["first"]`)
				} else if err := c.Write(clientText("[]")); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				clientWantsCode(t, c, tt.code)
				err := clientWantsEnd(t, c)
				t.Log(err)
				if took := time.Since(began); took > tt.after {
					t.Errorf("ended after %v, want %v", took, tt.after)
				}
				if tt.cause != nil && !errors.Is(err, tt.cause) {
					t.Errorf("error %v, want %v in it", err, tt.cause)
				}
				if strings.Contains(err.Error(), "vsn") {
					t.Errorf("the URL is in the error: %v", err)
				}
				if err := c.Write(clientText("[]")); err == nil {
					t.Error("Write: no error")
				}
				clientWithin(t, 0, func() { c.Close(1000, "") })
			})
		})
	}
}

// net/http repeats a GET by itself when a kept connection breaks. What the first one took would be lost unseen.
func TestClientLPLostAnswer(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.get = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i != 2 {
			return false
		}
		conn, _, _ := w.(http.Hijacker).Hijack()
		conn.Close()
		return true
	}
	clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		s.out <- "[1]"
		clientWants(t, c, serializer.OpText, "[1]")
		clientWantsCode(t, c, 1011)
		synctest.Wait()
		if gets, _ := s.counts(); gets > 3 {
			t.Errorf("%d GETs: the lost one was repeated", gets)
		}
	})
}

// Checklist J227, J232 and wire.md 9.4: what is posted, and how.
func TestClientLPPosts(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i == 0 {
			time.Sleep(2 * time.Second)
		}
		return false
	}
	clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		c.Write(clientText(`["a"]`), clientBinary("\x00\x01"), clientBinary("\xff\xfe\xfd"), clientText(`["ü"]`))
		synctest.Wait()
		// While that one is unanswered all of these wait.
		var want []string
		for i := range 250 {
			line := fmt.Sprintf(`["%d"]`, i)
			want = append(want, line)
			c.Write(clientText(line))
		}
		c.Write(clientText(`{"v":1}`), clientText(`{"v":2}`), clientText("[\n]"), clientText(`["last"]`))
		time.Sleep(time.Second)
		if _, posts := s.counts(); posts != 1 {
			t.Fatalf("%d POSTs at once", posts)
		}
		time.Sleep(2 * time.Second)
		bodies := []string{
			"[\"a\"]\nAAE=\n//79\n[\"ü\"]",
			strings.Join(want[:100], "\n"), strings.Join(want[100:200], "\n"), strings.Join(want[200:], "\n"),
			`{"v":1}`, `{"v":2}`, "[\n]", `["last"]`,
		}
		got := s.posted()
		if len(got) != len(bodies) {
			t.Fatalf("%d POSTs, want %d: %q", len(got), len(bodies), got)
		}
		total := 0
		for i, want := range bodies {
			contentType := "application/x-ndjson"
			if i >= 4 && i <= 6 {
				contentType = "application/json"
			}
			if got[i] != want || s.request("POST", i).Header.Get("Content-Type") != contentType {
				t.Errorf("POST %d: %s %.200q, want %s %.200q", i, s.request("POST", i).Header.Get("Content-Type"), got[i], contentType, want)
			}
			total += len(want)
		}
		if _, out := c.Bytes(); out != uint64(total) {
			t.Errorf("%d bytes out, want %d", out, total)
		}
		if conns := n.conns.Load(); conns > 2 {
			t.Errorf("%d connections, want two that are kept", conns)
		}
	})
}

// Large lines do not make a body that a server would refuse.
func TestClientLPPostSize(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	clientLPTest(t, s, transport.ClientConfig{MaxQueue: 100 << 20}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		line := "[" + strings.Repeat("1", 100_000) + "]"
		huge := "[" + strings.Repeat("2", 3<<20) + "]"
		frames := []*serializer.Frame{clientText(huge)}
		for range 20 {
			frames = append(frames, clientText(line))
		}
		c.Write(append(frames, clientText(huge))...)
		synctest.Wait()
		lines := 0
		for i, body := range s.posted() {
			if len(body) > 512<<10 && body != huge {
				t.Errorf("POST %d has %d bytes", i, len(body))
			}
			lines += strings.Count(body, "\n") + 1
		}
		if lines != 22 {
			t.Errorf("%d lines, want 22", lines)
		}
	})
}

// The backlog is bounded: Write waits for room, and not for ever.
func TestClientLPBacklog(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i < 3 {
			time.Sleep(3 * time.Second)
			return false
		}
		<-r.Context().Done()
		return true
	}
	clientLPTest(t, s, transport.ClientConfig{MaxQueue: 1000, WriteTimeout: 5 * time.Second}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		frame := clientText("[" + strings.Repeat("1", 900) + "]")
		clientWithin(t, 0, func() { c.Write(frame) })
		for range 3 {
			began := time.Now()
			if err := c.Write(frame); err != nil || time.Since(began) != 3*time.Second {
				t.Fatalf("Write: %v after %v", err, time.Since(began))
			}
		}
		clientWithin(t, 5*time.Second, func() {
			if err := c.Write(frame); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write: %v", err)
			}
		})
		clientWithin(t, 0, func() { clientWantsCode(t, c, 1005) })
	})
}

// A frame that is larger than the backlog goes through alone.
func TestClientLPBacklogOfOne(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	clientLPTest(t, s, transport.ClientConfig{MaxQueue: 1}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
		for i := range 5 {
			if err := c.Write(clientText(fmt.Sprintf("[%d]", i))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := strings.Join(s.posted(), "|"); got != "[0]|[1]|[2]|[3]|[4]" {
			t.Errorf("posted %s", got)
		}
		if err := c.Write(); err != nil {
			t.Error(err)
		}
	})
}

func TestClientLPClose(t *testing.T) {
	t.Parallel()
	t.Run("posts what was written", func(t *testing.T) {
		t.Parallel()
		s := newClientLP()
		s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
			time.Sleep(400 * time.Millisecond)
			return false
		}
		clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
			for i := range 150 {
				c.Write(clientText(fmt.Sprintf("[%d]", i)))
			}
			read := make(chan error, 1)
			go func() {
				_, _, err := c.Read()
				read <- err
			}()
			clientWithin(t, 1200*time.Millisecond, func() {
				if err := c.Close(1000, ""); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			if lines := strings.Count(strings.Join(s.posted(), "\n"), "\n") + 1; lines != 150 {
				t.Errorf("%d lines posted, want 150", lines)
			}
			if err := <-read; err != transport.ErrClosed {
				t.Errorf("Read: %v", err)
			}
			if err := c.Write(clientText("[]")); err != transport.ErrClosed {
				t.Errorf("Write: %v", err)
			}
		})
	})
	t.Run("within its time", func(t *testing.T) {
		t.Parallel()
		s := newClientLP()
		s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		}
		clientLPTest(t, s, transport.ClientConfig{MaxQueue: 1}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
			c.Write(clientText("[1]"))
			go func() {
				if err := c.Write(clientText("[2]")); err != transport.ErrClosed {
					t.Errorf("Write: %v", err)
				}
			}()
			synctest.Wait()
			go c.Close(1000, "")
			clientWithin(t, 1500*time.Millisecond, func() {
				if err := c.Close(1000, ""); err == nil {
					t.Error("Close: no error")
				}
			})
			if err := clientWantsEnd(t, c); err != transport.ErrClosed {
				t.Errorf("Read: %v", err)
			}
		})
	})
	t.Run("at once when there is nothing", func(t *testing.T) {
		t.Parallel()
		s := newClientLP()
		clientLPTest(t, s, transport.ClientConfig{}, func(t *testing.T, n *clientNet, c transport.ClientConn) {
			s.out <- "[1]"
			synctest.Wait()
			clientWithin(t, 0, func() {
				if err := c.Close(1000, ""); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			if err := clientWantsEnd(t, c); err != transport.ErrClosed {
				t.Errorf("Read: %v, though Close was called before", err)
			}
		})
	})
	t.Run("with a transport that does not let go", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newClientLP()
			n := newClientNet(t, s)
			release := make(chan struct{})
			deaf := clientRoundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("X-Phoenix-Longpoll-Token") != "" {
					<-release
					return nil, errors.New("too late")
				}
				return n.Transport.RoundTrip(r)
			})
			c := clientDial(t, transport.DialLongPoll, transport.ClientConfig{HTTPClient: &http.Client{Transport: deaf}})
			clientWithin(t, 1500*time.Millisecond, func() { c.Close(1000, "") })
			close(release)
		})
	})
}

type clientRoundTripper func(*http.Request) (*http.Response, error)

func (f clientRoundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Everything at once, for the race detector.
func TestClientLPConcurrent(t *testing.T) {
	t.Parallel()
	s := newClientLP()
	s.post = func(i int, w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		body := s.bodies[i]
		s.mu.Unlock()
		for line := range strings.SplitSeq(body, "\n") {
			s.out <- line
		}
		return false
	}
	n := newClientNet(t, s)
	c := clientDial(t, transport.DialLongPoll, transport.ClientConfig{HTTPClient: n.Client, MaxQueue: 500})
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := c.Write(clientText(fmt.Sprintf("[%d %d]", w, 2*i)), clientText(fmt.Sprintf("[%d %d]", w, 2*i+1))); err != nil {
					t.Error(err)
					return
				}
				c.Bytes()
			}
		})
	}
	var next [writers]int
	for range 2 * writers * each {
		_, data, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		var w, i int
		fmt.Sscanf(string(data), "[%d %d]", &w, &i)
		if i != next[w] {
			t.Fatalf("writer %d: got %d, want %d", w, i, next[w])
		}
		next[w]++
	}
	wg.Wait()
}
