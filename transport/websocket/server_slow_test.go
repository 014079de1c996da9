package websocket_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/websocket"
)

// fill sends numbered frames until the kernel accepts no more, so that further frames wait in the
// queue.
func fill(t *testing.T, s *wsServer, session *wsSession, payload string) (sent int) {
	t.Helper()
	quiet := 0
	for before := s.ws.Stats().Dropped; ; sent++ {
		if err := session.Send(textFrame(fmt.Sprint(sent, " ", payload)), broadcast); err != nil {
			t.Fatalf("after %d: %v", sent, err)
		}
		if s.ws.Stats().Dropped > before {
			if quiet++; quiet == 20 {
				return sent + 1
			}
			time.Sleep(time.Millisecond) // the kernel may accept more: go on until it has not for a while
			before = s.ws.Stats().Dropped
		}
	}
}

func number(t *testing.T, b []byte) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		t.Fatalf("frame %.20q: %v", b, err)
	}
	return n
}

// TestWebSocketSlowDisconnect checks that, by default, a client that does not read is disconnected,
// and receives the reason if it reads later. Other clients are not affected.
func TestWebSocketSlowDisconnect(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 64 << 10}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		other, otherSession := s.connect()
		payload := strings.Repeat("x", 5000)
		sent := 0
		var err error
		for ; err == nil; sent++ {
			err = session.Send(textFrame(fmt.Sprint(sent, " ", payload)), transporttest.DeliveryOf(sent%2 == 0))
			if sent%100 == 0 {
				otherSession.text(t, "quick")
				other.want(fin|opText, "quick")
			}
		}
		if err != transport.ErrFull {
			t.Fatalf("Send: %v", err)
		}
		if err := session.Send(textFrame("x"), broadcast); err != transport.ErrClosed {
			t.Errorf("Send: %v", err)
		}
		if st := s.ws.Stats(); st.Slow != 1 || st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
		got := 0
		for ; ; got++ {
			first, b := p.frame()
			if first == fin|opClose {
				if string(b) != closePayload(1013, "slow consumer") {
					t.Errorf("close frame %q", b)
				}
				break
			}
			if n := number(t, b); n != got {
				t.Fatalf("frame %d is number %d", got, n)
			}
		}
		if got >= sent {
			t.Errorf("%d of %d arrived", got, sent)
		}
		p.send(fin|opClose, closePayload(1013, ""))
		p.wantEnd()
		if err := session.end(t); err != transport.ErrFull {
			t.Errorf("Closed(%v)", err)
		}
		other.finish(otherSession)
	})
}

func TestWebSocketSlowDropOldest(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 40_000, OnSlow: transport.DropOldest}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		payload := strings.Repeat("x", 1000)
		sent := fill(t, s, session, payload)
		// Replies are kept, and so are the newest of the other frames.
		const replies = 10
		for i := range replies {
			if err := session.Send(textFrame(fmt.Sprint(sent, " reply")), transporttest.DeliveryOf(false)); err != nil {
				t.Fatalf("reply %d: %v", i, err)
			}
			sent++
			if err := session.Send(textFrame(fmt.Sprint(sent, " ", payload)), broadcast); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		session.text(t, "last")
		got, gotReplies, before := 0, 0, -1
		tail := 0 // the number of consecutive frames, up to the last
		for {
			_, b := p.frame()
			if string(b) == "last" {
				break
			}
			n := number(t, b)
			if n <= before {
				t.Fatalf("number %d after %d", n, before)
			}
			if tail++; n != before+1 {
				tail = 1
			}
			before = n
			got++
			if strings.HasSuffix(string(b), "reply") {
				gotReplies++
			}
		}
		if gotReplies != replies || before != sent-1 {
			t.Errorf("%d replies, last number %d of %d", gotReplies, before, sent)
		}
		if tail < 30 {
			t.Errorf("only the last %d are whole", tail)
		}
		if st := s.ws.Stats(); st.Dropped != uint64(sent-got) || st.Slow != 0 {
			t.Errorf("%d sent, %d arrived, %+v", sent, got, st)
		}
		p.finish(session)
	})
}

func TestWebSocketSlowDropNewest(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 40_000, OnSlow: transport.DropNewest}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		sent := fill(t, s, session, strings.Repeat("x", 1000))
		for range 10 {
			if err := session.Send(textFrame(fmt.Sprint(sent, strings.Repeat(" ", 1000))), broadcast); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		dropped := int(s.ws.Stats().Dropped)
		got, before := 0, -1
		for ; got < sent-dropped; got++ {
			_, b := p.frame()
			n := number(t, b)
			if n <= before {
				t.Fatalf("number %d after %d", n, before)
			}
			before = n
		}
		if before >= sent-10 {
			t.Errorf("number %d arrived, though there was no room", before)
		}
		session.text(t, "room again")
		p.want(fin|opText, "room again")

		// A frame of Disconnect that finds no room ends the connection.
		fill(t, s, session, strings.Repeat("x", 1000))
		var err error
		for i := 0; err == nil && i < 100; i++ {
			err = session.Send(textFrame(strings.Repeat("r", 1000)), transporttest.DeliveryOf(false))
		}
		if err != transport.ErrFull {
			t.Errorf("Send: %v", err)
		}
		p.Close()
		if err := session.end(t); err != transport.ErrFull {
			t.Errorf("Closed(%v)", err)
		}
	})
}

// TestWebSocketLargerThanQueue checks that a frame of any size fits in an empty queue. A queue
// counts as empty when the client has received everything, even if the writer has not reported it
// yet.
func TestWebSocketLargerThanQueue(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 1000}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		for _, n := range []int{1 << 21, 100_000} {
			big := strings.Repeat("0123456789abcdef", n/16)
			for range 1 << 22 / n {
				session.text(t, big)
				p.want(fin|opText, big)
			}
		}
		p.finish(session)
	})
}

// TestWebSocketStalled checks that a client that reads nothing is disconnected although the queue
// is not full.
func TestWebSocketStalled(t *testing.T) {
	t.Parallel()
	cfg := websocket.Config{MaxQueue: 100 << 20, WriteTimeout: 100 * time.Millisecond}
	onEachPath(t, cfg, func(t *testing.T, s *wsServer) {
		_, session := s.connect()
		other, otherSession := s.connect()
		big := &serializer.Frame{Op: serializer.OpBinary, Data: make([]byte, 1<<20)}
		for range 30 {
			if err := session.Send(big, transporttest.DeliveryOf(false)); err != nil && err != transport.ErrClosed {
				t.Fatal(err)
			}
		}
		if err := session.end(t); !errors.Is(err, transport.ErrFull) {
			t.Errorf("Closed(%v)", err)
		}
		if st := s.ws.Stats(); st.Slow != 1 {
			t.Errorf("%+v", st)
		}
		other.finish(otherSession)
	})
}

// TestWebSocketSlowReader checks that a client that reads slowly receives everything, in order.
func TestWebSocketSlowReader(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 100 << 20}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		const n = 2000
		for i := range n {
			session.text(t, fmt.Sprint(i, strings.Repeat(" ", i*37%20_000)))
		}
		for i := range n {
			if _, b := p.frame(); number(t, b) != i {
				t.Fatalf("frame %d is %.10q", i, b)
			}
			if i%200 == 0 {
				time.Sleep(5 * time.Millisecond) // the test is about a slow reader
			}
		}
		p.finish(session)
	})
}

// TestWebSocketPingFlood checks that the server stops reading from a client that pings and does not
// read, and that the write timeout ends it.
func TestWebSocketPingFlood(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 20_000, WriteTimeout: 100 * time.Millisecond},
		func(t *testing.T, s *wsServer) {
			p, session := s.connect()
			flood := []byte(strings.Repeat(string(maskedFrame(fin|opPing, strings.Repeat("p", 125))), 1000))
			go func() {
				for {
					if _, err := p.Write(flood); err != nil {
						return
					}
				}
			}()
			if err := session.end(t); !errors.Is(err, transport.ErrFull) {
				t.Errorf("Closed(%v)", err)
			}
		})
}

// TestWebSocketBatches checks that small frames that wait together are written together.
func TestWebSocketBatches(t *testing.T) {
	t.Parallel()
	for _, path := range wsPaths[:2] {
		t.Run(path.name, func(t *testing.T) {
			t.Parallel()
			s := startWS(t, websocket.Config{}, path)
			p, session := s.connect()
			const n = 5000
			frame := textFrame(strings.Repeat("b", 98))
			for range n {
				if err := session.Send(frame, broadcast); err != nil {
					t.Fatal(err)
				}
			}
			for range n {
				p.want(fin|opText, string(frame.Data))
			}
			p.finish(session)
			s.ws.Wait()
			st := s.ws.Stats()
			t.Logf("%d frames, %d bytes in %d writes", n, st.Bytes, st.Writes)
			if st.Bytes != n*100+4 || st.Writes > n/10 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestWebSocketStress runs many connections at once, with senders, closers and clients of all
// kinds.
func TestWebSocketStress(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 30_000, OnSlow: transport.DropOldest, CloseTimeout: 50 * time.Millisecond},
		func(t *testing.T, s *wsServer) {
			const n = 40
			var all sync.WaitGroup
			var sessions []*wsSession
			for i := range n {
				p, session := s.connect()
				sessions = append(sessions, session)
				all.Go(func() {
					defer p.Close()
					switch i % 4 {
					case 0: // reads, in order
						before := map[int]int{}
						for {
							first, b, err := p.read()
							if err != nil || first == fin|opClose {
								return
							}
							var sender, k int
							fmt.Sscan(string(b), &sender, &k)
							if k <= before[sender] {
								t.Errorf("sender %d: %d after %d", sender, k, before[sender])
							}
							before[sender] = k
						}
					case 1: // sends and reads
						go io.Copy(io.Discard, p.br)
						for range 50 {
							if _, err := p.Write(maskedFrame(fin|opText, "hello")); err != nil {
								return
							}
						}
					case 2: // leaves immediately
					case 3: // never reads
						time.Sleep(30 * time.Millisecond) // and leaves during the test
					}
				})
			}
			for sender := range 4 {
				all.Go(func() {
					for k := 1; k <= 300; k++ {
						f := textFrame(fmt.Sprint(sender, " ", k, strings.Repeat(" ", k)))
						for _, session := range sessions {
							session.Send(f, broadcast)
						}
					}
				})
			}
			time.Sleep(20 * time.Millisecond) // during the test
			for i, session := range sessions {
				if i%3 == 0 {
					session.Close(1001, "")
				}
			}
			time.Sleep(20 * time.Millisecond) // and others later
			for _, session := range sessions {
				session.Close(1012, "")
			}
			all.Wait()
			for _, session := range sessions {
				session.end(t)
			}
			s.ws.Wait()
		})
}
