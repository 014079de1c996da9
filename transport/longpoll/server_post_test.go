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

// A POST has messages, in order. The parsers of bodies have tests of their own.
func TestPostedMessages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		ct   []string
		body string
		want []string
	}{
		{"", []string{"application/x-ndjson"}, "[1]\n[2]\r\n[3]", []string{"1:[1]", "1:[2]", "1:[3]"}},
		{"", []string{"application/x-ndjson"}, "[1]\nAAEC", []string{"1:[1]", "2:\x00\x01\x02"}},
		{"JSON", []string{"application/json"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"no type", nil, `{"topic":1}`, []string{`1:{"topic":1}`}},
		{"with parameters", []string{"application/x-ndjson; charset=utf-8"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"in other letters", []string{"Application/x-ndjson"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"twice", []string{"application/x-ndjson", "application/x-ndjson"}, "[1]\n[2]", []string{"1:[1]\n[2]"}},
		{"an empty line is handed on", []string{"application/x-ndjson"}, "[1]\n", []string{"1:[1]", "2:"}},
		{"an empty body of a batch", []string{"application/x-ndjson"}, "", []string{"2:"}},
		{"an empty body as one text", []string{"text/plain"}, "", []string{"1:"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newTestServer(t, longpoll.Config{})
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

// A POST without a valid token begins no session.
func TestPostWithoutSession(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{})
	defer s.end()
	for _, query := range []string{
		"", "token=", "token=bad", "token[]=x", "token=%00%01", "token=" + strings.Repeat("A", 98),
	} {
		if a := s.do("POST", query, batchHeader, strings.NewReader("[1]")); a.http != 200 || a.body != `{"status":410}` {
			t.Errorf("%q: got %d %q", query, a.http, a.body)
		}
	}
	if n := s.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// A body that cannot be read has no effect on the session.
func TestRefusedBodies(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{MaxBody: 1000, MaxMessage: 100})
	defer s.end()
	token, session := s.open()
	for _, test := range []struct {
		name string
		body io.Reader
		http int
	}{
		{"not base64", strings.NewReader("[1]\n!!!"), 500},
		{"too large", strings.NewReader(strings.Repeat("[1]\n", 400)), 400},
		{"too large, without Content-Length", io.MultiReader(strings.NewReader(strings.Repeat("[1]\n", 400))), 400},
		{"a message too large", strings.NewReader("[1]\n[" + strings.Repeat("x", 100)), 400},
		{"broken off", io.MultiReader(strings.NewReader("[1]\n"), cutOffBody{}), 400},
	} {
		if a := s.do("POST", "token="+token, batchHeader, test.body); a.http != test.http || a.body != "" {
			t.Errorf("%s: got %d %q", test.name, a.http, a.body)
		}
	}
	if got := session.received(); len(got) > 0 {
		t.Errorf("the session received %q", got)
	}
	s.post(token, "[1]").is(t, 200)
	session.send("[2]")
	s.get(token).is(t, 200, "[2]")
}

type cutOffBody struct{}

func (cutOffBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A message that the session cannot read ends it. The POST is answered at once, where Phoenix waits
// until the window ends, and the rest of it is not handled.
func TestMalformedMessageEndsSession(t *testing.T) {
	t.Parallel()
	bad, withCode := errors.New("malformed"), fmt.Errorf("%w", &transport.CloseError{Code: 1008})
	for _, test := range []struct {
		name string
		body string
		err  error
		code int
		got  []string
	}{
		{"malformed", "[1]\n[bad]\n[2]", bad, transport.CodeInternal, []string{"1:[1]", "1:[bad]"}},
		{"with a code", "[1]\n[bad]\n[2]", withCode, 1008, []string{"1:[1]", "1:[bad]"}},
		{"an empty line", "[1]\n\n[2]", bad, transport.CodeInternal, []string{"1:[1]", "2:"}},
		{"not UTF-8", "[1]\n[\"\xff\"]\n[2]", nil, transport.CodeBadUTF8, []string{"1:[1]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
				session.receive = func(_ serializer.Op, data []byte) error {
					if string(data) == "[bad]" || len(data) == 0 {
						return test.err
					}
					return nil
				}
				start := time.Now()
				s.post(token, test.body).is(t, 408)
				wantAfter(t, start, 0)
				if err := <-session.closed; closeCode(err) != test.code {
					t.Errorf("closed by %v", err)
				}
				if got := session.received(); !slices.Equal(got, test.got) {
					t.Errorf("the session received %q", got)
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

// A POST times out if one message is not handled within the window. Its further messages are not
// handled, but the session lives.
func TestPostTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{})
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
		s.post(token, "[1]\n[2]\n[3]").is(t, 200) // no message took too long
		wantAfter(t, start, 12*time.Second)
		token, session = s.open()
		session.receive = receive
		start = time.Now()
		s.post(token, "[4]\n[slow]\n[5]").is(t, 408)
		wantAfter(t, start, 14*time.Second)
		s.post(token, "[fast]").is(t, 200) // after the slow message was handled
		want := []string{"1:[4]", "1:[slow]", "1:[fast]"}
		if got := session.received(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// Concurrent POSTs take turns, in order. One that does not get its turn within the window is
// answered with 408 and has no effect.
func TestPostsTakeTurns(t *testing.T) {
	t.Parallel()
	withSession(t, longpoll.Config{}, func(t *testing.T, s *testServer, token string, session *testSession) {
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
		wg.Go(func() { // the client of this POST disconnects before its turn
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/?token="+token, strings.NewReader("[9]"))
			s.ServeHTTP(w, r.WithContext(ctx))
		})
		wg.Wait()
		session.wantReceived(t, "1:[0]", "1:[1]")
	})
}
