package websocket_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/internal/mailbox"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// pendingSession returns a pending mailbox for each message, as sessions of package socket do. The
// first byte of a message is the name of its mailbox.
type pendingSession struct {
	mailboxes [4]mailbox.Mailbox[string]
	done      chan error
}

func (s *pendingSession) Receive(serializer.Op, []byte) error { panic("ReceivePending is preferred") }

func (s *pendingSession) ReceivePending(_ serializer.Op, data []byte) (mailbox.Pending, error) {
	b := &s.mailboxes[data[0]-'0']
	pending, err := b.EnqueuePending(string(data[1:]), len(data), 0)
	if !pending {
		return nil, err
	}
	return b, err
}

func (s *pendingSession) Closed(err error) {
	for i := range s.mailboxes {
		s.mailboxes[i].Close(true)
	}
	for i := range s.mailboxes {
		s.mailboxes[i].Wait()
	}
	s.done <- err
}

// startPending lets handle handle all messages of all connections.
func startPending(s *wsServer, workers *mailbox.Workers,
	handle func(c transport.Conn, text string)) chan *pendingSession {
	sessions := make(chan *pendingSession, 100)
	open := func(c transport.Conn) transport.Session {
		session := &pendingSession{done: make(chan error, 1)}
		for i := range session.mailboxes {
			session.mailboxes[i].InitShared(workers, 1<<20, func(text string) { handle(c, text) })
		}
		sessions <- session
		return session
	}
	s.open.Store(&open)
	return sessions
}

func (s *wsServer) connectPending() *wsPeer { return handshake(s.t, s.dial(), "/") }

// TestPendingMailboxes checks that a message whose handling blocks, or ends its goroutine, delays
// neither other mailboxes of the connection, nor its control frames, nor other connections.
func TestPendingMailboxes(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(gate chan struct{}){
		"blocks": func(gate chan struct{}) { <-gate },
		"exits":  func(chan struct{}) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
				gate := make(chan struct{})
				var workers mailbox.Workers
				defer workers.Wait()
				sessions := startPending(s, &workers, func(c transport.Conn, text string) {
					_ = c.Send(textFrame(text), transport.Delivery{Answer: true, Now: true}) // the client reads it, or fails
					if text == "wait" {
						wait(gate)
					}
				})
				const n = 20
				var peers []*wsPeer
				for range n {
					p := s.connectPending()
					peers = append(peers, p)
					p.sendText("0wait")
					p.want(fin|opText, "wait")
					p.sendText("1other")
					p.want(fin|opText, "other")
					p.send(fin|opPing, "x")
					p.want(fin|opPong, "x")
				}
				close(gate)
				for i, p := range peers {
					p.sendText("0next") // to the mailbox that was held up
					p.want(fin|opText, "next")
					p.send(fin|opClose, closePayload(1000, ""))
					p.wantClose(1000)
					if err := <-(<-sessions).done; err == nil {
						t.Errorf("connection %d ended without a reason", i)
					}
				}
			})
		})
	}
}

// TestManyMessagesInOneRead checks the order of messages that arrive together, and that each
// mailbox handles its own one at a time.
func TestManyMessagesInOneRead(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		var workers mailbox.Workers
		defer workers.Wait()
		startPending(s, &workers, func(c transport.Conn, text string) {
			_ = c.Send(textFrame(text), transport.Delivery{Answer: true, Now: true}) // as above
		})
		p := s.connectPending()
		const n = 500
		var all []byte
		for i := range n {
			all = append(all, maskedFrame(fin|opText, fmt.Sprintf("%d%d %d", i%4, i%4, i))...)
		}
		go func() { _, _ = p.Write(all) }() // a failure is seen below
		var next [4]int
		for i := range next {
			next[i] = i
		}
		for range n {
			_, payload := p.frame()
			var box, i int
			if _, err := fmt.Sscan(string(payload), &box, &i); err != nil || next[box] != i {
				t.Fatalf("received %q, want number %d of its mailbox", payload, next[box])
			}
			next[box] += 4
		}
	})
}

// TestSendNow checks that frames sent with Now keep their order with others, and are not lost if
// the client does not read for a while.
func TestSendNow(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 64 << 20}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		const n = 3000
		padding := strings.Repeat(" ", 1000) // in all, more than the kernel's buffers hold
		for i := range n {
			how := transport.Delivery{Answer: i%2 == 0, Now: i%3 > 0}
			if err := session.Send(textFrame(fmt.Sprint(i, padding)), how); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			p.want(fin|opText, fmt.Sprint(i, padding))
		}
		p.finish(session)
		if err := session.Send(textFrame("late"), transport.Delivery{Answer: true, Now: true}); err != transport.ErrClosed {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestSendNowFromManyGoroutines checks that every sender's frames arrive in its order.
func TestSendNowFromManyGoroutines(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		const senders, n = 8, 200
		var all sync.WaitGroup
		for i := range senders {
			all.Go(func() {
				for j := range n {
					how := transport.Delivery{Answer: true, Now: i%2 == 0}
					if err := session.Send(textFrame(fmt.Sprint(i, " ", j)), how); err != nil {
						t.Error(err)
					}
				}
			})
		}
		next := make([]int, senders)
		for range senders * n {
			_, payload := p.frame()
			var i, j int
			if _, err := fmt.Sscan(string(payload), &i, &j); err != nil || next[i] != j {
				t.Fatalf("received %q, want number %v", payload, next)
			}
			next[i]++
		}
		all.Wait()
		p.finish(session)
	})
}

// TestSendNowIsWrittenAtOnce checks that the frame is written when Send returns.
func TestSendNowIsWrittenAtOnce(t *testing.T) {
	t.Parallel()
	s := startWS(t, websocket.Config{}, wsPaths[0])
	p, session := s.connect()
	for i := range 100 {
		if err := session.Send(textFrame("x"), transport.Delivery{Answer: true, Now: true}); err != nil {
			t.Fatal(err)
		}
		if st := s.ws.Stats(); st.Writes != uint64(i+1) || st.Bytes != uint64(3*(i+1)) {
			t.Fatalf("after %d frames: %d writes of %d bytes", i+1, st.Writes, st.Bytes)
		}
		p.want(fin|opText, "x")
	}
	p.finish(session)
}

// TestFloodDelaysNobody checks that a client that sends without a pause does not keep the
// goroutines that read the others.
func TestFloodDelaysNobody(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		var count atomic.Int64
		counts := func(w *wsSession) {
			w.receive = func(_ serializer.Op, data []byte) error {
				if string(data) == "flood" {
					count.Add(1)
					return nil
				}
				return w.Send(textFrame(string(data)), broadcast)
			}
		}
		s.prepare.Store(&counts)
		var floods sync.WaitGroup
		var flooding []*wsPeer
		for range 2 * runtime.GOMAXPROCS(0) {
			p, _ := s.connect()
			flooding = append(flooding, p)
			floods.Go(func() {
				many := []byte(strings.Repeat(string(maskedFrame(fin|opText, "flood")), 1000))
				for {
					if _, err := p.Write(many); err != nil {
						return
					}
				}
			})
		}
		p, session := s.connect()
		for i := range 20 {
			p.sendText(fmt.Sprint(i))
			p.want(fin|opText, fmt.Sprint(i))
		}
		p.finish(session)
		if count.Load() == 0 {
			t.Error("there was no flood")
		}
		for _, p := range flooding {
			p.Close()
		}
		floods.Wait()
	})
}

// TestLastMessageBeforeTheEnd checks that a message is received whose connection ends with it: the
// kernel may report both at once.
func TestLastMessageBeforeTheEnd(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{}, func(t *testing.T, s *wsServer) {
		for i := range 100 {
			p, session := s.connect()
			if i%2 == 0 {
				p.sendText("first")
			}
			p.sendText("last")
			if i%4 < 2 {
				p.Close()
			} else if tcp, ok := p.Conn.(*net.TCPConn); ok {
				_ = tcp.CloseWrite() // if it fails, nothing ends
			} else {
				p.Close()
			}
			if i%2 == 0 {
				session.next(t)
			}
			if m := session.next(t); m.data != "last" {
				t.Fatalf("received %q", m.data)
			}
			_ = session.end(t)
			p.Close()
		}
	})
}

// TestEndWhileOpening checks that nobody reads before the session is there, even if the connection
// ends meanwhile.
func TestEndWhileOpening(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{CloseTimeout: time.Millisecond}, func(t *testing.T, s *wsServer) {
		ended := make(chan struct{})
		closes := func(w *wsSession) {
			w.Close(4000, "")
			<-ended
		}
		s.prepare.Store(&closes)
		end := sync.OnceFunc(func() { close(ended) })
		defer end() // also if the test fails
		p := handshake(t, s.dial(), "/")
		eventually(t, "the end of the network connection", func() bool {
			_, err := p.Write(maskedFrame(fin|opText, "x"))
			return err != nil
		})
		end()
		(<-s.opened).wantCode(t, 4000)
	})
}
