package longpoll_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/longpoll"
)

// Failed requests and answers end a session with the code that phoenix.js uses.
func TestClientEnds(t *testing.T) {
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
	ones := func(n int) string { return strings.Repeat("1", n) }
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
		{"an invalid status", "GET", says(`{"status":2e999}`), 1011, 0, nil},
		{"garbage", "GET", says("<html>"), 1011, 0, nil},
		{"nothing", "GET", says(""), 1011, 0, nil},
		{"messages of another kind", "GET", says(`{"status":200,"messages":[["1"]]}`), 1011, 0, nil},
		{"messages that are not a list", "GET", says(`{"status":200,"messages":{}}`), 1011, 0, nil},
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
		{"message too big", "GET", says(`{"status":200,"messages":["[]","[` + ones(1000) + `]"]}`), 1009, 0, nil},
		{"answer too big", "GET", says(`{"status":200,"x":"` + ones(4000) + `","messages":[]}`), 1009, 0, nil},
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
			s := transporttest.NewLongPollServer()
			if tt.on == "GET" {
				s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
					switch i {
					case 0:
						return false
					case 1:
						transporttest.Answer(w, 200, "T", `["first"]`)
					default:
						tt.answer(w, r)
					}
					return true
				}
			} else {
				s.Post = func(i int, w http.ResponseWriter, r *http.Request) bool {
					tt.answer(w, r)
					return true
				}
			}
			cfg := transport.ClientConfig{MaxMessage: 1000}
			withClient(t, s, cfg, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
				if tt.on == "GET" {
					transporttest.Wants(t, c, serializer.OpText, `["first"]`)
				}
				began := time.Now()
				if tt.on == "POST" {
					wrote := make(chan error, 1)
					go func() { wrote <- c.Write(transporttest.Text("[]")) }()
					defer func() {
						if err := <-wrote; err == nil {
							t.Error("Write: no error")
						}
					}()
				}
				transporttest.WantsCode(t, c, tt.code)
				err := transporttest.WantsEnd(t, c)
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
				if err := c.Write(transporttest.Text("[]")); err == nil {
					t.Error("Write: no error")
				}
				transporttest.Within(t, 0, func() { c.Close(1000, "") })
			})
		})
	}
}

// net/http repeats a GET if a kept connection breaks. The client ends the session instead of losing
// the messages of the first answer.
func TestClientNoticesLostAnswer(t *testing.T) {
	t.Parallel()
	s := transporttest.NewLongPollServer()
	s.Get = func(i int, w http.ResponseWriter, r *http.Request) bool {
		if i != 2 {
			return false
		}
		conn, _, _ := w.(http.Hijacker).Hijack()
		conn.Close()
		return true
	}
	withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
		s.Out <- "[1]"
		transporttest.Wants(t, c, serializer.OpText, "[1]")
		transporttest.WantsCode(t, c, 1011)
		synctest.Wait()
		if gets, _ := s.Counts(); gets > 3 {
			t.Errorf("%d GETs: the lost one was repeated", gets)
		}
	})
}

func TestClientClose(t *testing.T) {
	t.Parallel()
	t.Run("posts what was written", func(t *testing.T) {
		t.Parallel()
		s := transporttest.NewLongPollServer()
		s.Post = func(i int, w http.ResponseWriter, r *http.Request) bool {
			time.Sleep(400 * time.Millisecond)
			return false
		}
		withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
			var frames []*serializer.Frame
			for i := range 150 {
				frames = append(frames, transporttest.Text(fmt.Sprintf("[%d]", i)))
			}
			wrote := make(chan error, 1)
			go func() { wrote <- c.Write(frames...) }()
			synctest.Wait()
			read := make(chan error, 1)
			go func() {
				_, _, err := c.Read()
				read <- err
			}()
			transporttest.Within(t, 1200*time.Millisecond, func() {
				if err := c.Close(1000, ""); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			if lines := strings.Count(strings.Join(s.Posted(), "\n"), "\n") + 1; lines != 150 {
				t.Errorf("%d lines posted, want 150", lines)
			}
			if err := <-wrote; err != nil {
				t.Errorf("Write: %v", err)
			}
			if err := <-read; err != transport.ErrClosed {
				t.Errorf("Read: %v", err)
			}
			if err := c.Write(transporttest.Text("[]")); err != transport.ErrClosed {
				t.Errorf("Write: %v", err)
			}
		})
	})
	t.Run("within its time", func(t *testing.T) {
		t.Parallel()
		s := transporttest.NewLongPollServer()
		s.Post = func(i int, w http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		}
		withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
			for i := range 2 {
				go func() {
					if err := c.Write(transporttest.Text(fmt.Sprintf("[%d]", i))); err != transport.ErrClosed {
						t.Errorf("Write: %v", err)
					}
				}()
			}
			synctest.Wait()
			go c.Close(1000, "")
			transporttest.Within(t, 1500*time.Millisecond, func() {
				if err := c.Close(1000, ""); err == nil {
					t.Error("Close: no error")
				}
			})
			if err := transporttest.WantsEnd(t, c); err != transport.ErrClosed {
				t.Errorf("Read: %v", err)
			}
		})
	})
	t.Run("at once when there is nothing", func(t *testing.T) {
		t.Parallel()
		s := transporttest.NewLongPollServer()
		withClient(t, s, transport.ClientConfig{}, func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
			s.Out <- "[1]"
			synctest.Wait()
			transporttest.Within(t, 0, func() {
				if err := c.Close(1000, ""); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			if err := transporttest.WantsEnd(t, c); err != transport.ErrClosed {
				t.Errorf("Read: %v, though Close was called before", err)
			}
		})
	})
	t.Run("with a transport that does not let go", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := transporttest.NewLongPollServer()
			n := transporttest.NewNet(t, s)
			release := make(chan struct{})
			deaf := clientRoundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("X-Phoenix-Longpoll-Token") != "" {
					<-release
					return nil, errors.New("too late")
				}
				return n.Transport.RoundTrip(r)
			})
			c := transporttest.Dial(t, longpoll.Dial, transport.ClientConfig{HTTPClient: &http.Client{Transport: deaf}})
			transporttest.Within(t, 1500*time.Millisecond, func() { c.Close(1000, "") })
			close(release)
		})
	})
}

type clientRoundTripper func(*http.Request) (*http.Response, error)

func (f clientRoundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
