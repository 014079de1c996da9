package longpoll_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
)

// testNet serves a testServer by an http.Server on pipes, in virtual time.
type testNet struct {
	*testServer
	listener *transporttest.PipeListener
}

// withNet runs f with a testNet of the given http.Server.
func withNet(t *testing.T, cfg longpoll.Config, server *http.Server, f func(t *testing.T, n *testNet)) {
	synctest.Test(t, func(t *testing.T) {
		n := &testNet{newTestServer(t, cfg), transporttest.NewPipeListener()}
		server.Handler = n
		served := make(chan struct{})
		go func() {
			server.Serve(n.listener)
			close(served)
		}()
		f(t, n)
		n.end()
		server.Close()
		<-served
	})
}

func (n *testNet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" { // another handler
		time.Sleep(time.Minute)
		io.WriteString(w, "done")
		return
	}
	if r.Method == "REFUSE" {
		n.Refuse(w, r, nil)
		return
	}
	n.testServer.ServeHTTP(w, r)
}

// netClient is one connection of a client.
type netClient struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

// dial opens a connection.
func (n *testNet) dial() *netClient {
	here, there := net.Pipe()
	n.listener.Conns <- there
	return &netClient{n.t, here, bufio.NewReader(here)}
}

// request writes a request.
func (c *netClient) request(method, query, body string) {
	fmt.Fprintf(c, "%s /?%s HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n", method, query)
	fmt.Fprintf(c, "Content-Length: %d\r\n\r\n%s", len(body), body)
}

// answer reads an answer.
func (c *netClient) answer() testAnswer {
	c.t.Helper()
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	a := testAnswer{http: r.StatusCode, header: r.Header, body: string(body)}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &a); err != nil {
			c.t.Fatalf("%q: %v", body, err)
		}
	}
	return a
}

// The timeouts of an http.Server may be shorter than a poll.
func TestPollOutlastsServerTimeouts(t *testing.T) {
	t.Parallel()
	server := &http.Server{ReadTimeout: time.Second, WriteTimeout: time.Second}
	withNet(t, longpoll.Config{}, server, func(t *testing.T, n *testNet) {
		token, session := n.open()
		c := n.dial()
		defer c.Close()
		for range 3 {
			start := time.Now()
			c.request("GET", "token="+token, "")
			c.answer().is(t, 204)
			wantAfter(t, start, 10*time.Second)
		}
		session.receive = func(serializer.Op, []byte) error {
			time.Sleep(5 * time.Second)
			return nil
		}
		c.request("POST", "token="+token, "[1]")
		c.answer().is(t, 200)
	})
}

// A client that closes its connection during a poll loses no message.
func TestLostConnectionTakesNoMessage(t *testing.T) {
	t.Parallel()
	withNet(t, longpoll.Config{}, &http.Server{}, func(t *testing.T, n *testNet) {
		token, session := n.open()
		c := n.dial()
		c.request("GET", "token="+token, "")
		synctest.Wait()
		c.Close()
		synctest.Wait()
		session.send("[1]")
		n.get(token).is(t, 200, "[1]")
	})
}

// A client that does not read an answer loses nothing. The next poll makes that answer fail and
// receives its messages. Without another poll, the answer fails after its timeout.
func TestUnreadAnswer(t *testing.T) {
	t.Parallel()
	big := "[" + strings.Repeat("1", 100_000) + "]"
	for _, wait := range []time.Duration{0, time.Second, 14 * time.Second, 16 * time.Second, 20 * time.Second} {
		withNet(t, longpoll.Config{}, &http.Server{}, func(t *testing.T, n *testNet) {
			token, session := n.open()
			c := n.dial()
			defer c.Close()
			time.Sleep(time.Second) // the time without a poll must stay below the idle timeout
			session.send(big, "[2]")
			c.request("GET", "token="+token, "")
			io.ReadFull(c, make([]byte, 1000)) // a part of the answer
			time.Sleep(wait)
			session.send("[3]")
			start := time.Now()
			n.get(token).is(t, 200, big, "[2]", "[3]")
			wantAfter(t, start, 0)
			if b, err := io.ReadAll(c); err != nil || len(b) > 100_000 {
				t.Errorf("the stuck answer went on for %d bytes, %v", len(b), err)
			}
		})
	}
}

// One connection serves polls, POSTs and other handlers in turn. No deadline is left behind.
func TestConnectionIsReused(t *testing.T) {
	t.Parallel()
	withNet(t, longpoll.Config{}, &http.Server{}, func(t *testing.T, n *testNet) {
		token, session := n.open()
		c := n.dial()
		defer c.Close()
		for range 3 {
			session.send("[1]")
			c.request("GET", "token="+token, "")
			c.answer().is(t, 200, "[1]")
			c.request("POST", "token="+token, "[2]")
			c.answer().is(t, 200)
			c.request("GET", "token="+token, "")
			c.answer().is(t, 204)
		}
		fmt.Fprint(c, "GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Body); string(b) != "done" {
			t.Errorf("another handler's answer: %q, %v", b, err)
		}
	})
}

// A body that arrives too slowly is given up. It has no effect on the session, and does not delay
// other POSTs. The connection is closed.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, method string
		session      bool
		http         int
	}{
		{"of a session", "POST", true, 400},
		{"without a session", "POST", false, 200},
		{"of another method", "PUT", false, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			withNet(t, longpoll.Config{}, &http.Server{}, func(t *testing.T, n *testNet) {
				token, session := n.open()
				query := "token=bad"
				if test.session {
					query = "token=" + token
				}
				c := n.dial()
				start := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() {
					fmt.Fprintf(c, "%s /?%s HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n[", test.method, query)
					for {
						time.Sleep(time.Second)
						if _, err := c.Write([]byte{'1'}); err != nil {
							return
						}
					}
				})
				wg.Go(func() {
					defer c.Close()
					if a := c.answer(); a.http != test.http {
						t.Errorf("got %d %q", a.http, a.body)
					}
					if b, err := io.ReadAll(c.in); err != nil || len(b) > 0 {
						t.Errorf("%q, %v", b, err)
					}
					if d := time.Since(start); d > 31*time.Second {
						t.Errorf("the connection was there for %v", d)
					}
				})
				time.Sleep(9 * time.Second)
				n.post(token, "[2]").is(t, 200)
				session.send("[3]")
				n.get(token).is(t, 200, "[3]")
				wg.Wait()
				session.wantReceived(t, "1:[2]")
			})
		})
	}
}

// On a real network, a body that is too large is answered and does not reach the session.
func TestLargeBodyOnNetwork(t *testing.T) {
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	hs := httptest.NewServer(s)
	defer hs.Close()
	token, session := s.open()
	post := func(body io.Reader, size int64) (status int, answer string) {
		r, err := http.NewRequest("POST", hs.URL+"/?token="+token, body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = size
		r.Header.Set("Content-Type", "application/x-ndjson")
		resp, err := hs.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	lines := func(n int) *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{'\n'}, n)) }
	for _, size := range []int64{9_000_000, -1} {
		if status, answer := post(lines(9_000_000), size); status != 400 || answer != "" {
			t.Errorf("got %d %q", status, answer)
		}
	}
	if got := session.received(); len(got) > 0 {
		t.Errorf("got %d messages", len(got))
	}
	if status, answer := post(strings.NewReader("[1]"), 3); status != 200 || answer != `{"status":200}` {
		t.Errorf("got %d %q", status, answer)
	}
}

// A body of line breaks only costs as much as a hundred empty messages.
func TestMemoryOfEmptyLines(t *testing.T) {
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	token, session := s.open()
	body := bytes.Repeat([]byte{'\n'}, 8_000_000)
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.post(token, string(body[:0])) // an empty body
			s.do("POST", "token="+token, batchHeader, bytes.NewReader(body)).is(t, 200)
		}
	})
	if n := result.AllocedBytesPerOp(); n > 100_000 {
		t.Errorf("%d bytes", n)
	}
	if n := len(session.received()); n == 0 || n%101 != 0 {
		t.Errorf("%d messages", n)
	}
}

// With HTTP/2, the requests of a client share a connection.
func TestHTTP2(t *testing.T) {
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	hs := httptest.NewUnstartedServer(s)
	hs.EnableHTTP2 = true
	hs.StartTLS()
	defer hs.Close()
	defer hs.Client().CloseIdleConnections()
	token, session := s.open()
	get := func() (a testAnswer) {
		resp, err := hs.Client().Get(hs.URL + "/?token=" + token)
		if err != nil {
			t.Error(err)
			return a
		}
		defer resp.Body.Close()
		a.http = resp.StatusCode
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.ProtoMajor != 2 {
			t.Error(resp.Proto, err)
		}
		return a
	}
	big := "[" + strings.Repeat("1", 1_000_000) + "]"
	for range 5 {
		session.send(big, "[2]")
		get().is(t, 200, big, "[2]")
		got := make(chan testAnswer)
		go func() { got <- get() }()
		resp, err := hs.Client().Post(hs.URL+"/?token="+token, "application/x-ndjson", strings.NewReader("[1]"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		session.send("[3]")
		(<-got).is(t, 200, "[3]")
	}
}
