package transporttest

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// LongPollServer is a long-poll server for one client. It records the requests, and answers as a
// healthy server unless Get or Post answer. Its methods may be called from any goroutine.
type LongPollServer struct {
	// Get answers the i-th GET, counted from 0, and Post the i-th POST. They return false for the
	// usual answer.
	Get  func(i int, w http.ResponseWriter, r *http.Request) bool
	Post func(i int, w http.ResponseWriter, r *http.Request) bool

	Out chan string // messages for the client

	mu     sync.Mutex
	gets   []*http.Request
	posts  []*http.Request
	bodies []string // of posts
}

// NewLongPollServer returns a server. A test that uses synctest must create it in the bubble, or
// replace Out there.
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

// Posted returns the bodies of the POSTs so far.
func (s *LongPollServer) Posted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...)
}

// Counts returns the number of requests so far.
func (s *LongPollServer) Counts() (gets, posts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gets), len(s.posts)
}

// Request returns the i-th request of a method.
func (s *LongPollServer) Request(method string, i int) *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if method == http.MethodPost {
		return s.posts[i]
	}
	return s.gets[i]
}

// Answer writes the answer of Phoenix 1.8.10 or later.
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
