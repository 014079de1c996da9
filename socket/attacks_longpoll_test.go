package socket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// pollWorld is two nodes with Config.Auth, and a long-poll client whose session is on the first.
// Its tokens are the names of users.
type pollWorld struct {
	t      *testing.T
	nodes  []*clusterNode
	calls  atomic.Int32 // of the room's callback
	gate   chan struct{}
	banned atomic.Bool
	token  string // of the session
}

func newPollWorld(t *testing.T) *pollWorld {
	w := &pollWorld{t: t, gate: make(chan struct{})}
	room := channel.Define(func(_ *nobody, ctx context.Context, _ *channel.Channel, p struct{ Slow bool }) (any, error) {
		if p.Slow {
			select {
			case <-w.gate:
			case <-ctx.Done():
			}
		}
		return nil, nil
	}, onEvent("do", func(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
		w.calls.Add(1)
		return push.OK(nil), nil
	}))
	verify := func(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
		if w.banned.Load() {
			return socket.Grant{}, &socket.Refusal{Body: "gone", Final: true}
		}
		return socket.Grant{ID: token}, nil
	}
	cluster := pubsubtest.NewCluster()
	for range 2 {
		w.nodes = append(w.nodes, newClusterNode(t, cluster, socket.Config{
			Auth: &socket.Auth{Verify: verify}, Channels: channel.Routes{"room:*": room},
		}))
	}
	w.open()
	w.post(0, `["1","1","$socket","phx_join",{}]`, `["2","2","room:1","phx_join",{}]`)
	synctest.Wait()
	w.get(0)
	return w
}

func (w *pollWorld) end() {
	for _, n := range w.nodes {
		if err := n.Shutdown(context.Background()); err != nil {
			w.t.Error(err)
		}
		n.die()
	}
}

// pollAnswer is the answer to a request.
type pollAnswer struct {
	Status   int
	Token    string
	Messages []string
}

// request sends a request to a node.
func (w *pollWorld) request(node int, method string, body io.Reader) (a pollAnswer) {
	r := httptest.NewRequest(method, "http://node/socket/longpoll?vsn=2.0.0&token="+w.token, body)
	r.Header.Set("X-Phoenix-AuthToken", "ann")
	r.Header.Set("Content-Type", "application/x-ndjson")
	got := httptest.NewRecorder()
	w.nodes[node].ServeHTTP(got, r)
	if err := json.Unmarshal(got.Body.Bytes(), &a); err != nil || got.Code != http.StatusOK {
		w.t.Errorf("%s: %d %s", method, got.Code, got.Body)
	}
	return a
}

// open opens a session, and checks that there was none.
func (w *pollWorld) open() {
	w.t.Helper()
	a := w.request(0, http.MethodGet, http.NoBody)
	if a.Status != http.StatusGone || a.Token == "" {
		w.t.Fatalf("not opened: %+v", a)
	}
	w.token = a.Token
}

func (w *pollWorld) get(node int) []string {
	return w.request(node, http.MethodGet, http.NoBody).Messages
}

func (w *pollWorld) post(node int, lines ...string) (status int) {
	return w.request(node, http.MethodPost, strings.NewReader(strings.Join(lines, "\n"))).Status
}

// poll polls in the background.
func (w *pollWorld) poll(node int) <-chan []string {
	got := make(chan []string, 1)
	go func() { got <- w.get(node) }()
	synctest.Wait()
	return got
}

// revoke bans ann, first in Verify.
func (w *pollWorld) revoke(node int) {
	w.banned.Store(true)
	if err := w.nodes[node].Revoke(context.Background(), "ann", "gone"); err != nil {
		w.t.Error(err)
	}
	synctest.Wait()
}

const pollDo = `["2","9","room:1","do",{}]`

// TestRevokeDuringLongPoll revokes a user while requests of its session are under way, on the
// session's node and on another one. No message that comes later is handled, the client is told if
// it polls within the second, and then nothing but a refusal is left to it.
func TestRevokeDuringLongPoll(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(w *pollWorld, node int) (messages []string){
		"a poll": func(w *pollWorld, node int) []string {
			poll := w.poll(node)
			w.revoke(node)
			return <-poll
		},
		"no request": func(w *pollWorld, node int) []string {
			w.revoke(node)
			return nil
		},
		"a POST": func(w *pollWorld, node int) []string {
			body, write := io.Pipe()
			posted := make(chan int, 1)
			go func() { posted <- w.request(node, http.MethodPost, body).Status }()
			if _, err := io.WriteString(write, pollDo[:10]); err != nil {
				w.t.Error(err)
			}
			synctest.Wait()
			w.revoke(node)
			if _, err := io.WriteString(write, pollDo[10:]+"\n"+pollDo); err != nil {
				w.t.Error(err)
			}
			_ = write.Close() // it returns no error
			if status := <-posted; status != http.StatusOK && status != http.StatusGone {
				w.t.Errorf("the POST was answered %d", status)
			}
			return nil
		},
		"a POST that ends after the session": func(w *pollWorld, node int) []string {
			body, write := io.Pipe()
			posted := make(chan int, 1)
			go func() { posted <- w.request(node, http.MethodPost, body).Status }()
			if _, err := io.WriteString(write, pollDo[:10]); err != nil {
				w.t.Error(err)
			}
			synctest.Wait()
			w.revoke(node)
			got := w.get(node)
			time.Sleep(2 * time.Second)
			if _, err := io.WriteString(write, pollDo[10:]); err != nil {
				w.t.Error(err)
			}
			_ = write.Close() // it returns no error
			if status := <-posted; status != http.StatusGone {
				w.t.Errorf("the POST was answered %d", status)
			}
			return got
		},
		"a POST that waits for a join, a second POST, and a poll": func(w *pollWorld, node int) []string {
			posted := make(chan int, 2)
			go func() { posted <- w.post(node, `["3","3","room:2","phx_join",{"slow":true}]`, pollDo, pollDo) }()
			synctest.Wait()
			go func() { posted <- w.post(node, pollDo) }()
			poll := w.poll(node)
			w.revoke(node)
			for range 2 {
				if status := <-posted; status != http.StatusOK && status != http.StatusGone {
					w.t.Errorf("a POST was answered %d", status)
				}
			}
			return <-poll
		},
	} {
		for _, node := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s at node %d", name, node), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newPollWorld(t)
					defer w.end()
					begun := time.Now()
					got := test(w, node)
					if time.Since(begun) < time.Second {
						if status := w.post(1-node, pollDo); status != http.StatusOK && status != http.StatusGone {
							t.Errorf("a later POST was answered %d", status)
						}
						got = append(got, w.get(1-node)...)
					}
					const closed, denied = `["2","2","room:1","phx_close",{"reason":"gone"}]`,
						`["1",null,"$socket","denied",{"reason":"gone"}]`
					var told []string
					for _, m := range got {
						if m == closed || m == denied {
							told = append(told, m)
						}
					}
					if len(told) != 2 || told[0] != closed || got[len(got)-1] != denied {
						t.Errorf("the client was told %q", got)
					}
					time.Sleep(1500 * time.Millisecond)
					if n := w.calls.Load(); n != 0 {
						t.Errorf("%d messages were handled", n)
					}
					if status := w.post(node, pollDo); status != http.StatusGone {
						t.Errorf("after the end a POST is answered %d", status)
					}
					w.open() // a session that only tells the reason
					w.post(node, `["2","2","room:1","phx_join",{}]`)
					synctest.Wait()
					if got := w.get(node); len(got) != 1 || !strings.Contains(got[0], `{"reason":"denied"}`) {
						t.Errorf("after the end: %q", got)
					}
				})
			})
		}
	}
}
