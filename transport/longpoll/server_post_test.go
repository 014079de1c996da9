package longpoll_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// A POST brings messages, in order. The readers of bodies have tests of their own.
func TestLongPollPosts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		ct   []string
		body string
		want []string
	}{
		{"H174", []string{"application/x-ndjson"}, "[1]\n[2]\r\n[3]", []string{"1:[1]", "1:[2]", "1:[3]"}},
		{"H176", []string{"application/x-ndjson"}, "[1]\nAAEC", []string{"1:[1]", "2:\x00\x01\x02"}},
		{"H175: JSON", []string{"application/json"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"H175: no type", nil, `{"topic":1}`, []string{`1:{"topic":1}`}},
		{"H175: with parameters", []string{"application/x-ndjson; charset=utf-8"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"H175: in other letters", []string{"Application/x-ndjson"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"H175: twice", []string{"application/x-ndjson", "application/x-ndjson"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"H178: an empty line is handed on", []string{"application/x-ndjson"}, "[1]\n", []string{"1:[1]", "2:"}},
		{"H178: so is an empty body", []string{"application/x-ndjson"}, "", []string{"2:"}},
		{"an empty body as one text", []string{"text/plain"}, "", []string{"1:"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newLPServer(t, longpoll.Config{})
			defer s.end()
			token, session := s.open()
			a := s.do("POST", "token="+token, http.Header{"Content-Type": test.ct}, strings.NewReader(test.body))
			if a.http != 200 || a.body != `{"status":200}` {
				t.Errorf("got %d %q", a.http, a.body)
			}
			if got := session.received(); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A POST without a good token. No session begins.
func TestLongPollPostsToNobody(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{})
	defer s.end()
	for _, query := range []string{"", "token=", "token=bad", "token[]=x", "token=%00%01", "token=" + strings.Repeat("A", 98)} {
		if a := s.do("POST", query, lpBatch, strings.NewReader("[1]")); a.http != 200 || a.body != `{"status":410}` {
			t.Errorf("%q: got %d %q", query, a.http, a.body)
		}
	}
	if n := s.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// A body that cannot be read does nothing to the session.
func TestLongPollRefusesABody(t *testing.T) {
	t.Parallel()
	s := newLPServer(t, longpoll.Config{MaxBody: 1000, MaxMessage: 100})
	defer s.end()
	token, session := s.open()
	for _, test := range []struct {
		name string
		body io.Reader
		http int
	}{
		{"H179: not base64", strings.NewReader("[1]\n!!!"), 500},
		{"H180: too large", strings.NewReader(strings.Repeat("[1]\n", 400)), 400},
		{"H180: too large, which it does not say", io.MultiReader(strings.NewReader(strings.Repeat("[1]\n", 400))), 400},
		{"a message too large", strings.NewReader("[1]\n[" + strings.Repeat("x", 100)), 400},
		{"broken off", io.MultiReader(strings.NewReader("[1]\n"), lpCutOff{}), 400},
	} {
		if a := s.do("POST", "token="+token, lpBatch, test.body); a.http != test.http || a.body != "" {
			t.Errorf("%s: got %d %q", test.name, a.http, a.body)
		}
	}
	if got := session.received(); len(got) > 0 {
		t.Errorf("the session got %q", got)
	}
	s.post(token, "[1]").is(t, 200)
	session.send("[2]")
	s.get(token).is(t, 200, "[2]")
}

type lpCutOff struct{}

func (lpCutOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A message that the session cannot read ends it. The POST is answered at once, not at the end of the window as by Phoenix; the rest of
// it is not handed on. After that the session is gone.
func TestLongPollEndsByABadMessage(t *testing.T) {
	t.Parallel()
	bad := errors.New("malformed")
	for _, test := range []struct {
		name string
		body string
		err  error
		code int
		got  []string
	}{
		{"malformed", "[1]\n[bad]\n[2]", bad, transport.CodeInternal, []string{"1:[1]", "1:[bad]"}},
		{"with a code", "[1]\n[bad]\n[2]", fmt.Errorf("%w", &transport.CloseError{Code: 1008}), 1008, []string{"1:[1]", "1:[bad]"}},
		{"an empty line", "[1]\n\n[2]", bad, transport.CodeInternal, []string{"1:[1]", "2:"}},
		{"not UTF-8", "[1]\n[\"\xff\"]\n[2]", nil, transport.CodeBadUTF8, []string{"1:[1]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newLPServer(t, longpoll.Config{})
				defer s.end()
				token, session := s.open()
				session.receive = func(_ serializer.Op, data []byte) error {
					if string(data) == "[bad]" || len(data) == 0 {
						return test.err
					}
					return nil
				}
				start := time.Now()
				s.post(token, test.body).is(t, 408)
				if d := time.Since(start); d != 0 {
					t.Errorf("after %v", d)
				}
				if err := <-session.closed; lpCode(err) != test.code {
					t.Errorf("closed by %v", err)
				}
				if got := session.received(); !slices.Equal(got, test.got) {
					t.Errorf("the session got %q", got)
				}
				s.post(token, "[3]").is(t, 410)
				a := s.get(token)
				a.is(t, 410)
				if a.Token == token {
					t.Error("the old token")
				}
			})
		})
	}
}

// A message that is not taken within the window. The rest of its batch is not handed on, the session lives.
func TestLongPollPostTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		took := map[string]time.Duration{"[slow]": 10500 * time.Millisecond, "[fast]": 0}
		receive := func(_ serializer.Op, data []byte) error {
			d, ok := took[string(data)]
			if !ok {
				d = 4 * time.Second
			}
			time.Sleep(d)
			return nil
		}
		token, session := s.open()
		session.receive = receive
		start := time.Now()
		s.post(token, "[1]\n[2]\n[3]").is(t, 200) // none of them took too long
		if d := time.Since(start); d != 12*time.Second {
			t.Errorf("after %v", d)
		}
		token, session = s.open()
		session.receive = receive
		start = time.Now()
		s.post(token, "[4]\n[slow]\n[5]").is(t, 408)
		if d := time.Since(start); d != 14*time.Second {
			t.Errorf("after %v", d)
		}
		s.post(token, "[fast]").is(t, 200) // when the slow one has been done with
		want := []string{"1:[4]", "1:[slow]", "1:[fast]"}
		if got := session.received(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// Two POSTs at once take turns, in order. One that does not get its turn within the window is answered with 408, and does nothing.
func TestLongPollPostsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLPServer(t, longpoll.Config{})
		defer s.end()
		token, session := s.open()
		session.receive = func(serializer.Op, []byte) error {
			time.Sleep(9 * time.Second)
			return nil
		}
		var wg sync.WaitGroup
		for i, want := range []int{200, 200, 408} {
			wg.Go(func() { s.post(token, fmt.Sprintf("[%d]", i)).is(t, want) })
			synctest.Wait()
			time.Sleep(time.Millisecond)
		}
		wg.Go(func() { // one whose client goes away before its turn
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/?token="+token, strings.NewReader("[9]"))
			s.ServeHTTP(w, r.WithContext(ctx))
		})
		wg.Wait()
		if got, want := session.received(), []string{"1:[0]", "1:[1]"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
