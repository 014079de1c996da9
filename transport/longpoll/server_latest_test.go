package longpoll_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// latest returns the delivery of a frame that replaces older ones of its key.
func latest(of string) transport.Delivery {
	return transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("room:1", "moved", of)}
}

func TestKeepLatest(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, longpoll.Config{MaxQueue: 500})
	defer s.end()
	token, session := s.open()
	send := func(text string, how transport.Delivery) {
		t.Helper()
		if err := session.Send(textFrame(text), how); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	send(`"ann 0"`, latest("ann"))
	send(`"reply"`, transport.Delivery{})
	for i := range 100 {
		send(fmt.Sprintf(`"bob %d"`, i), latest("bob"))
		send(fmt.Sprintf(`"ann %d"`, i+1), latest("ann"))
	}
	s.get(token).is(t, 200, `"reply"`, `"bob 99"`, `"ann 100"`)
	if st := s.Stats(); st.Conflated != 199 || st.Dropped != 0 || st.Slow != 0 {
		t.Errorf("%+v", st)
	}

	// Frames that an answer has taken stay. If the answer fails, they return to the queue, except for
	// those that are obsolete by then.
	send(`"ann 101"`, latest("ann"))
	send(`"bob 100"`, latest("bob"))
	w := &sendingWriter{
		brokenWriter: brokenWriter{header: http.Header{}, err: errors.New("broken pipe")},
		send:         func() { send(`"ann 102"`, latest("ann")) },
	}
	s.ServeHTTP(w, httptest.NewRequest("GET", "/?token="+token, nil))
	send(`"reply"`, transport.Delivery{})
	if st := s.Stats(); st.Conflated != 200 {
		t.Errorf("%+v", st)
	}
	s.get(token).is(t, 200, `"bob 100"`, `"ann 102"`, `"reply"`)
}

// sendingWriter is a brokenWriter that calls send when it is first written to.
type sendingWriter struct {
	brokenWriter
	send func()
}

func (w *sendingWriter) Write(b []byte) (int, error) {
	if w.send != nil {
		w.send()
		w.send = nil
	}
	return w.brokenWriter.Write(b)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	key := transport.NewKey("room:1", "moved", "ann")
	for _, other := range []transport.Key{
		{}, transport.NewKey("room:2", "moved", "ann"), transport.NewKey("room:1", "left", "ann"),
		transport.NewKey("room:1", "moved", ""),
		transport.NewKey("room:1", "moveda", "nn"), transport.NewKey("", "", ""),
	} {
		if other == key {
			t.Errorf("%v is %v", other, key)
		}
	}
	if again := transport.NewKey("room:1", "moved", "ann"); again != key {
		t.Errorf("%v is not %v", again, key)
	}
}
