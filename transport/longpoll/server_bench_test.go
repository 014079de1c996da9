package longpoll_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

func BenchmarkLongPollRoundTrip(b *testing.B) {
	b.ReportAllocs()
	s := longpoll.NewServer(longpoll.Config{})
	reply := &serializer.Frame{Op: serializer.OpText, Data: []byte(`["3","41","room:7","phx_reply",{"status":"ok","response":{}}]`)}
	session := &lpSession{closed: make(chan error, 1)}
	connect := func() (func(transport.Conn) transport.Session, error) {
		return func(c transport.Conn) transport.Session { session.Conn = c; return lpEcho{session, reply} }, nil
	}
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/", nil), connect)
	var a lpAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		b.Fatal(err)
	}
	const body = `["3","41","room:7","say",{"t":"hi"}]`
	get, post := httptest.NewRequest("GET", "/", nil), httptest.NewRequest("POST", "/", nil)
	get.Header.Set("X-Phoenix-Longpoll-Token", a.Token)
	post.Header.Set("X-Phoenix-Longpoll-Token", a.Token)
	post.Header.Set("Content-Type", "application/x-ndjson")
	discard := &lpDiscard{header: http.Header{}}
	for b.Loop() {
		post.Body = io.NopCloser(strings.NewReader(body))
		s.Serve(discard, post, connect)
		s.Serve(discard, get, connect)
	}
	b.StopTimer()
	session.Close(transport.CodeRestart, "")
	s.Wait()
}

// lpEcho answers every message.
type lpEcho struct {
	*lpSession
	reply *serializer.Frame
}

func (e lpEcho) Receive(serializer.Op, []byte) error { return e.Send(e.reply, transport.Delivery{}) }

// lpDiscard is a ResponseWriter that keeps nothing.
type lpDiscard struct{ header http.Header }

func (d *lpDiscard) Header() http.Header { return d.header }

func (d *lpDiscard) WriteHeader(int) {}

func (d *lpDiscard) Write(p []byte) (int, error) { return len(p), nil }

func (d *lpDiscard) Flush() {}

func (d *lpDiscard) SetReadDeadline(time.Time) error { return nil }

func (d *lpDiscard) SetWriteDeadline(time.Time) error { return nil }
