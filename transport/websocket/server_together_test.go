package websocket_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// together calls the connection's Batch, which package socket uses.
func (s *wsSession) together(f func()) { s.Conn.(interface{ Batch(func()) }).Batch(f) }

// TestBatch checks that the frames of a batch are written in one system call when it ends, whatever
// ends it, and that other frames wait for it.
func TestBatch(t *testing.T) {
	const n = 100
	send := func(t *testing.T, session *wsSession) {
		for i := range n {
			session.text(t, fmt.Sprint(i))
		}
	}
	for name, batch := range map[string]func(t *testing.T, session *wsSession){
		"a function": func(t *testing.T, session *wsSession) {
			session.together(func() { send(t, session) })
		},
		"a panic": func(t *testing.T, session *wsSession) {
			defer func() { _ = recover() }()
			session.together(func() {
				send(t, session)
				panic("in a batch")
			})
		},
		"one in another": func(t *testing.T, session *wsSession) {
			session.together(func() {
				session.together(func() { session.text(t, "0") })
				for i := range n - 1 {
					session.text(t, fmt.Sprint(i+1))
				}
			})
		},
		"another goroutine": func(t *testing.T, session *wsSession) {
			session.together(func() {
				var sender sync.WaitGroup
				sender.Go(func() { send(t, session) })
				sender.Wait()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
				p, session := s.connect()
				batch(t, session)
				for i := range n {
					p.want(fin|opText, fmt.Sprint(i))
				}
				session.together(func() {}) // writes nothing
				p.finish(session)
				s.ws.Wait()
				if st := s.ws.Stats(); st.Writes != 2 { // with the close frame
					t.Errorf("%d writes, want one for the batch and one for the close frame", st.Writes)
				}
			})
		})
	}
}

// TestBatchEnds checks that a batch neither holds back frames without a bound nor the end of its
// connection.
func TestBatchEnds(t *testing.T) {
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		large := strings.Repeat("x", 1000)
		session.together(func() {
			for range 100 {
				session.text(t, large)
			}
			for range 50 { // which are less than what is written at once
				p.want(fin|opText, large) // before the batch has ended
			}
			session.Close(transport.CodeRestart, "")
		})
		for range 50 {
			p.want(fin|opText, large)
		}
		p.wantClose(transport.CodeRestart)
		p.Close()
		session.wantCode(t, transport.CodeRestart)
	})
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		session.together(func() {
			session.text(t, "lost")
			p.Close()
			if session.end(t) == nil {
				t.Error("the connection has ended without an error")
			}
		})
	})
}

// TestBatchOfSlowClient checks that a batch that the client does not read neither blocks nor loses
// or repeats anything.
func TestBatchOfSlowClient(t *testing.T) {
	onEachPath(t, websocket.Config{MaxQueue: 64 << 20}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		const batches, each = 400, 50
		text := func(i int) string { return fmt.Sprint(i, strings.Repeat(" ", 1000)) }
		for i := range batches {
			session.together(func() {
				for j := range each {
					session.text(t, text(i*each+j))
				}
			})
		}
		for i := range batches * each {
			p.want(fin|opText, text(i))
		}
		p.finish(session)
	})
}

// TestBatchesOfManyGoroutines sends in batches and without them at the same time: each sender's
// frames arrive in order.
func TestBatchesOfManyGoroutines(t *testing.T) {
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		const senders, n = 8, 300
		var all sync.WaitGroup
		for i := range senders {
			all.Go(func() {
				for j := 0; j < n; j += 3 {
					send := func() {
						for k := range 3 {
							session.text(t, fmt.Sprint(i, " ", j+k))
						}
					}
					if i%2 == 0 {
						session.together(send)
					} else {
						send()
					}
				}
			})
		}
		next := make([]int, senders)
		for range senders * n {
			_, payload := p.frame()
			var i, j int
			if _, err := fmt.Sscan(string(payload), &i, &j); err != nil || next[i] != j {
				t.Fatalf("got %q, want number %v", payload, next)
			}
			next[i]++
		}
		all.Wait()
		if slices.Min(next) != n {
			t.Error(next)
		}
		p.finish(session)
	})
}
