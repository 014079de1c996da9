package longpoll_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// BenchmarkLongPollOfAnotherNode is one message posted and one polled; the bus between the nodes takes no time.
func BenchmarkLongPollOfAnotherNode(b *testing.B) {
	for i, name := range []string{"own node", "another node"} {
		b.Run(name, func(b *testing.B) {
			cfg := longpoll.Config{Secret: []byte("shared"), Peers: newLPBus()}
			nodes := []*longpoll.Server{longpoll.NewServer(cfg), longpoll.NewServer(cfg)}
			session := &lpTaker{}
			open := func() (func(transport.Conn) transport.Session, error) {
				return func(c transport.Conn) transport.Session { session.Conn = c; return session }, nil
			}
			w := httptest.NewRecorder()
			nodes[0].Serve(w, httptest.NewRequest("GET", "/", nil), open)
			_, token, _ := strings.Cut(w.Body.String(), `"token":"`)
			token, _, _ = strings.Cut(token, `"`)
			b.ReportAllocs()
			for b.Loop() {
				nodes[i].Serve(httptest.NewRecorder(), httptest.NewRequest("POST", "/?token="+token, strings.NewReader("[1]")), open)
				session.Send(&serializer.Frame{Op: serializer.OpText, Data: []byte("[1]")}, transport.Delivery{})
				w := httptest.NewRecorder()
				nodes[i].Serve(w, httptest.NewRequest("GET", "/?token="+token, nil), open)
				if !strings.HasPrefix(w.Body.String(), `{"status":200`) {
					b.Fatal(w.Body.String())
				}
			}
			session.Close(transport.CodeRestart, "")
			for _, n := range nodes {
				n.Wait()
				n.Close()
			}
		})
	}
}

// lpTaker is a Session that takes everything.
type lpTaker struct{ transport.Conn }

func (*lpTaker) Receive(serializer.Op, []byte) error { return nil }
func (*lpTaker) Closed(error)                        {}
