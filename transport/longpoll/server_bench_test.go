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

func BenchmarkRoundTrip(b *testing.B) {
	b.ReportAllocs()
	s := longpoll.NewServer(longpoll.Config{})
	reply := textFrame(`["3","41","room:7","phx_reply",{"status":"ok","response":{}}]`)
	session := &testSession{closed: make(chan error, 1)}
	connect := func() (func(transport.Conn) transport.Session, error) {
		return func(c transport.Conn) transport.Session { session.Conn = c; return replyingSession{session, reply} }, nil
	}
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/", nil), connect)
	var a testAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		b.Fatal(err)
	}
	const body = `["3","41","room:7","say",{"t":"hi"}]`
	get, post := httptest.NewRequest("GET", "/", nil), httptest.NewRequest("POST", "/", nil)
	get.Header.Set("X-Phoenix-Longpoll-Token", a.Token)
	post.Header.Set("X-Phoenix-Longpoll-Token", a.Token)
	post.Header.Set("Content-Type", "application/x-ndjson")
	discard := &discardWriter{header: http.Header{}}
	for b.Loop() {
		post.Body = io.NopCloser(strings.NewReader(body))
		s.Serve(discard, post, connect)
		s.Serve(discard, get, connect)
	}
	b.StopTimer()
	session.Close(transport.CodeRestart, "")
	s.Wait()
}

// replyingSession is a Session that answers every message.
type replyingSession struct {
	*testSession
	reply *serializer.Frame
}

func (e replyingSession) Receive(serializer.Op, []byte) error {
	return e.Send(e.reply, transport.Delivery{})
}

// discardWriter is a ResponseWriter that drops its data.
type discardWriter struct{ header http.Header }

func (d *discardWriter) Header() http.Header { return d.header }

func (d *discardWriter) WriteHeader(int) {}

func (d *discardWriter) Write(p []byte) (int, error) { return len(p), nil }

func (d *discardWriter) Flush() {}

func (d *discardWriter) SetReadDeadline(time.Time) error { return nil }

func (d *discardWriter) SetWriteDeadline(time.Time) error { return nil }
