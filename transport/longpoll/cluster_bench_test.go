package longpoll_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// BenchmarkRemoteSession posts one message and polls for one, without a network between the nodes.
func BenchmarkRemoteSession(b *testing.B) {
	for i, name := range []string{"own node", "another node"} {
		b.Run(name, func(b *testing.B) {
			cfg := longpoll.Config{Secret: []byte("shared"), Peers: newTestBus()}
			nodes := []*longpoll.Server{longpoll.NewServer(cfg), longpoll.NewServer(cfg)}
			session := &sinkSession{}
			open := func() (func(transport.Conn) transport.Session, error) {
				return func(c transport.Conn) transport.Session { session.Conn = c; return session }, nil
			}
			w := httptest.NewRecorder()
			nodes[0].Serve(w, httptest.NewRequest("GET", "/", nil), open)
			_, token, _ := strings.Cut(w.Body.String(), `"token":"`)
			token, _, _ = strings.Cut(token, `"`)
			b.ReportAllocs()
			for b.Loop() {
				post := httptest.NewRequest("POST", "/?token="+token, strings.NewReader("[1]"))
				nodes[i].Serve(httptest.NewRecorder(), post, open)
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

// sinkSession is a Session that ignores its messages.
type sinkSession struct{ transport.Conn }

func (*sinkSession) Receive(serializer.Op, []byte) error { return nil }
func (*sinkSession) Closed(error)                        {}
