package transporttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// LongPollServer is a long-poll server for one client. It keeps what it is asked, and answers as a healthy one, unless a test has
// something else to say.
type LongPollServer struct {
	// Get answers the i-th GET from 0 on, Post the i-th POST. They return false for the usual answer.
	Get  func(i int, w http.ResponseWriter, r *http.Request) bool
	Post func(i int, w http.ResponseWriter, r *http.Request) bool

	mu     sync.Mutex
	gets   []*http.Request
	posts  []*http.Request
	bodies []string // of posts
	Out    chan string
}

func NewLongPollServer() *LongPollServer { return &LongPollServer{Out: make(chan string, 1000)} }

func (s *LongPollServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	all, own := &s.gets, s.Get
	if r.Method == http.MethodPost {
		all, own = &s.posts, s.Post
		s.bodies = append(s.bodies, string(body))
	}
	i := len(*all)
	*all = append(*all, r)
	s.mu.Unlock()
	if own != nil && own(i, w, r) {
		return
	}
	if r.Method == http.MethodPost {
		Answer(w, 200, "")
		return
	}
	if i == 0 {
		Answer(w, 410, "T")
		return
	}
	window := time.NewTimer(10 * time.Second)
	defer window.Stop()
	select {
	case m := <-s.Out:
		messages := []string{m}
		for {
			select {
			case m := <-s.Out:
				messages = append(messages, m)
				continue
			default:
			}
			break
		}
		Answer(w, 200, "T", messages...)
	case <-window.C:
		Answer(w, 204, "T")
	case <-r.Context().Done():
	}
}

// Posted returns the bodies so far.
func (s *LongPollServer) Posted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...)
}

func (s *LongPollServer) Counts() (gets, posts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gets), len(s.posts)
}

func (s *LongPollServer) Request(method string, i int) *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if method == http.MethodPost {
		return s.posts[i]
	}
	return s.gets[i]
}

// Answer is an answer of a Phoenix since 1.8.10.
func Answer(w http.ResponseWriter, status int, token string, messages ...string) {
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

// Hijack answers a WebSocket handshake and returns the bare connection.
func Hijack(w http.ResponseWriter, r *http.Request) io.ReadWriteCloser {
	conn, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", AcceptKey(r.Header.Get("Sec-WebSocket-Key")))
	buf.Flush()
	return conn
}

// Endpoint is an endpoint for either transport: it accepts WebSockets, and long-poll sessions as LongPollServer does.
func Endpoint() http.Handler {
	lp := NewLongPollServer()
	ws := WebSocketHandler(Echo)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/longpoll") {
			lp.ServeHTTP(w, r)
		} else {
			ws.ServeHTTP(w, r)
		}
	})
}
