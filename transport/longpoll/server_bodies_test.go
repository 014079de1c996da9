package longpoll_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport/longpoll"
)

// The body of a request is read before the answer, up to MaxBody, whatever the answer is.
func TestBodyIsReadBeforeAnswer(t *testing.T) {
	t.Parallel()
	const maxBody = 200_000
	for _, test := range []struct {
		name, method string
		session      bool
		body         string
		http, status int
		left         int
	}{
		{"no session", "POST", false, strings.Repeat("x", 150_000), 200, 410, 0},
		{"a new session", "GET", false, strings.Repeat("x", 150_000), 200, 410, 0},
		{"a preflight", "OPTIONS", false, strings.Repeat("x", 1000), 200, 0, 0},
		{"another method", "PUT", false, strings.Repeat("x", maxBody), 400, 0, 0},
		{"not base64", "POST", true, "!\n" + strings.Repeat("x", 150_000), 500, 0, 0},
		{"a message too large", "POST", true, "[" + strings.Repeat("x", 150_000), 400, 0, 0},
		{"more lines than count", "POST", true, strings.Repeat("[1]\n", 30_000), 200, 200, 0},
		{"a body too large", "POST", true, strings.Repeat("x", 2*maxBody), 400, 0, maxBody - 1},
		{"a large body of another method", "DELETE", true, strings.Repeat("x", 2*maxBody), 400, 0, maxBody - 1},
	} {
		for _, announced := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, announced: %v", test.name, announced), func(t *testing.T) {
				t.Parallel()
				s := newTestServer(t, longpoll.Config{MaxBody: maxBody, MaxMessage: 1000})
				defer s.end()
				query := "/?token=gone"
				if test.session {
					token, _ := s.open()
					query = "/?token=" + token
				}
				body := strings.NewReader(test.body)
				r := httptest.NewRequest(test.method, query, io.NopCloser(body))
				r.Header.Set("Content-Type", "application/x-ndjson")
				if announced {
					r.ContentLength = int64(len(test.body))
				}
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				if a := s.answer(w); a.http != test.http || a.Status != test.status {
					t.Errorf("got %d %s", a.http, a.body)
				}
				if body.Len() > test.left {
					t.Errorf("%d bytes were not read", body.Len())
				}
			})
		}
	}
}

// If the client wants the connection to be closed, as nginx does, net/http itself does not read the
// rest of a body.
func TestBodyIsReadBeforeConnectionCloses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ method, query, status string }{
		{"POST", "token=gone", "200 OK"}, {"PUT", "", "400 Bad Request"}, {"REFUSE", "", "200 OK"},
	} {
		t.Run(test.method, func(t *testing.T) {
			t.Parallel()
			withNet(t, longpoll.Config{}, &http.Server{}, func(t *testing.T, n *testNet) {
				c := n.dial()
				defer c.Close()
				const size = 300_000
				fmt.Fprintf(c, "%s /?%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n", test.method, test.query)
				fmt.Fprintf(c, "Content-Length: %d\r\n\r\n", size)
				answered := make(chan string, 1)
				go func() {
					line, _ := c.in.ReadString('\n')
					answered <- strings.TrimSpace(line)
				}()
				for range size/1000 - 1 {
					c.Write(make([]byte, 1000))
				}
				synctest.Wait()
				select {
				case line := <-answered:
					t.Errorf("answered %q before the body's end", line)
				default:
				}
				c.Write(make([]byte, 1000))
				if line := <-answered; line != "HTTP/1.1 "+test.status {
					t.Errorf("got %q", line)
				}
			})
		})
	}
}

// A client that waits before it sends a body is not asked for the body of a refused request.
func TestExpectContinueOfRefusedRequest(t *testing.T) {
	t.Parallel()
	withNet(t, longpoll.Config{}, &http.Server{}, func(t *testing.T, n *testNet) {
		c := n.dial()
		defer c.Close()
		fmt.Fprint(c, "POST /?token=gone HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n")
		c.answer().is(t, 410)
		if b, err := io.ReadAll(c.in); len(b) > 0 || err != nil {
			t.Errorf("behind the answer: %q, %v", b, err)
		}
	})
}

// counted adds the bytes that are read to a sum.
type counted struct {
	io.Reader
	sum *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.sum.Add(int64(n))
	return n, err
}

// postBody posts a body and returns the status.
func (s *testServer) postBody(token string, body io.Reader, size int64) int {
	w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/?token="+token, io.NopCloser(body))
	r.ContentLength = size
	r.Header.Set("Content-Type", "application/x-ndjson")
	s.ServeHTTP(w, r)
	return s.answer(w).Status
}

// newLargeBody returns the body of 10 messages of 730 kB. It is not a variable, because the tests
// of memory run in the same process.
func newLargeBody() []byte {
	return bytes.TrimSuffix(bytes.Repeat([]byte("["+strings.Repeat(" ", 730_000)+"]\n"), 10), []byte{'\n'})
}

// The POSTs of one session that are in work at the same time hold at most MaxBody.
func TestBodiesOfOneSession(t *testing.T) {
	t.Parallel()
	largeBody := newLargeBody()
	for _, size := range []int64{int64(len(largeBody)), -1} {
		withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
			gate := make(chan struct{})
			session.receive = func(serializer.Op, []byte) error {
				<-gate
				return nil
			}
			var sum, ok, late atomic.Int64
			var posts sync.WaitGroup
			for range 40 {
				posts.Go(func() {
					switch status := s.postBody(token, counted{bytes.NewReader(largeBody), &sum}, size); status {
					case 200:
						ok.Add(1)
					case 408:
						late.Add(1)
					default:
						t.Errorf("status %d", status)
					}
				})
			}
			synctest.Wait()
			if n := sum.Load(); n > 8_000_000 {
				t.Errorf("%d bytes of bodies were read at once", n)
			}
			other, _ := s.open()
			s.post(other, "[1]").is(t, 200)
			time.Sleep(9 * time.Second)
			close(gate)
			posts.Wait()
			if ok.Load()+late.Load() != 40 || ok.Load() == 0 {
				t.Errorf("%d were taken, %d were not", ok.Load(), late.Load())
			}
			s.post(token, "[1]").is(t, 200)
		})
	}
}

// A POST that waits for its session's other bodies is answered when the window ends, and its body
// is read.
func TestBodyWithoutRoom(t *testing.T) {
	t.Parallel()
	largeBody := newLargeBody()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
		gate := make(chan struct{})
		session.receive = func(serializer.Op, []byte) error {
			<-gate
			return nil
		}
		var posts sync.WaitGroup
		posts.Go(func() { s.postBody(token, bytes.NewReader(largeBody), int64(len(largeBody))) })
		synctest.Wait()
		start := time.Now()
		second := bytes.NewReader(largeBody)
		if status := s.postBody(token, second, int64(len(largeBody))); status != 408 || second.Len() > 0 {
			t.Errorf("status %d, %d bytes unread", status, second.Len())
		}
		wantAfter(t, start, 10*time.Second)
		if n := s.Stats().Busy; n != 1 {
			t.Errorf("%d POSTs are counted", n)
		}
		session.send("[2]")
		s.get(token).is(t, 200, "[2]") // keeps the session from being idle

		// The first POST was answered, but its messages are still in memory.
		if status := s.postBody(token, bytes.NewReader(largeBody), int64(len(largeBody))); status != 408 {
			t.Errorf("status %d", status)
		}
		close(gate)
		posts.Wait()
		synctest.Wait()
		if status := s.postBody(token, bytes.NewReader(largeBody), int64(len(largeBody))); status != 200 {
			t.Errorf("status %d", status)
		}
	})
}

// The bodies of all sessions are bounded together. Small POSTs get through nevertheless.
func TestBodiesOfAllSessions(t *testing.T) {
	t.Parallel()
	largeBody := newLargeBody()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{})
		defer s.end()
		gate := make(chan struct{})
		var sum atomic.Int64
		var posts sync.WaitGroup
		for range 30 {
			token, session := s.open()
			session.receive = func(serializer.Op, []byte) error {
				<-gate
				return nil
			}
			posts.Go(func() { s.postBody(token, counted{bytes.NewReader(largeBody), &sum}, int64(len(largeBody))) })
		}
		synctest.Wait()
		if n := sum.Load(); n > 48<<20 || n < 20<<20 {
			t.Errorf("%d bytes of bodies were read at once", n)
		}
		for range 100 {
			token, _ := s.open()
			s.post(token, "[1]").is(t, 200)
		}
		close(gate)
		posts.Wait()
		token, _ := s.open()
		if status := s.postBody(token, bytes.NewReader(largeBody), -1); status != 200 {
			t.Errorf("status %d", status)
		}
	})
}

// Clients that announce large bodies and do not send them do not block others.
func TestStalledBodies(t *testing.T) {
	t.Parallel()
	largeBody := newLargeBody()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{})
		defer s.end()
		var posts sync.WaitGroup
		var senders []*io.PipeWriter
		for range 300 {
			token, _ := s.open()
			body, sender := io.Pipe()
			senders = append(senders, sender)
			posts.Go(func() { s.postBody(token, body, 7_000_000) })
			sender.Write([]byte("["))
		}
		synctest.Wait()
		token, _ := s.open()
		start := time.Now()
		if status := s.postBody(token, bytes.NewReader(largeBody), int64(len(largeBody))); status != 200 {
			t.Errorf("status %d", status)
		}
		wantAfter(t, start, 0)
		for _, sender := range senders {
			sender.CloseWithError(io.ErrUnexpectedEOF)
		}
		posts.Wait()
	})
}
