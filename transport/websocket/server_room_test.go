package websocket_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

var ifRoom = transport.Delivery{IfRoom: true}

// TestDrained fills the queue of a client that does not read. Nothing is dropped and nothing ends:
// the sender is notified when it may go on.
func TestDrained(t *testing.T) {
	inBubble(t, websocket.Config{MaxQueue: 16 << 10}, func(t *testing.T, p *wsPeer, session *wsSession) {
		if !session.Drained(func() { t.Error("called, although the connection was drained") }) {
			t.Fatal("an idle connection is not drained")
		}
		payload := strings.Repeat("x", 1000)
		sent := 0
		fillUp := func() {
			for {
				err := session.Send(textFrame(fmt.Sprint(sent, " ", payload)), ifRoom)
				if err == transport.ErrNoRoom {
					return
				}
				if err != nil {
					t.Fatalf("frame %d: %v", sent, err)
				}
				sent++
			}
		}
		fillUp()
		synctest.Wait()
		fillUp() // a pipe takes nothing, so the writer's batch still counts
		if sent*1064 < 8<<10 || sent*1064 > 10<<10 {
			t.Errorf("%d frames wait", sent)
		}
		if err := session.Send(textFrame("an answer"), transport.Delivery{Answer: true}); err != nil {
			t.Errorf("answer: %v", err)
		}
		if err := session.Send(textFrame(strings.Repeat("y", 6000)), broadcast); err != nil {
			t.Errorf("the other half is for broadcasts: %v", err)
		}
		var first, second atomic.Int32
		if session.Drained(func() { first.Add(1) }) {
			t.Fatal("drained")
		}
		if session.Drained(func() {
			second.Add(1)
			if !session.Drained(nil) || session.Congested(nil) { // it runs under no lock
				t.Error("called too early")
			}
			fillUp()
		}) {
			t.Fatal("drained")
		}
		synctest.Wait()
		if first.Load()+second.Load() > 0 {
			t.Fatal("called before the client has read")
		}
		frames := p.collect()
		synctest.Wait()
		if first.Load() != 0 || second.Load() != 1 {
			t.Errorf("the replaced function was called %d times, the last one %d times", first.Load(), second.Load())
		}
		got := 0
		for len(frames) > 0 {
			if f := <-frames; strings.HasSuffix(f.data, payload) {
				if n := number(t, []byte(f.data)); n != got {
					t.Fatalf("frame %d is number %d", got, n)
				}
				got++
			}
		}
		if got != sent || got <= 10 {
			t.Errorf("%d frames of %d", got, sent)
		}
		if st := session.ws.Stats(); st.Slow != 0 || st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestDrainedWhenItEnds checks that the function is called if the connection ends first, once.
func TestDrainedWhenItEnds(t *testing.T) {
	for name, end := range map[string]func(p *wsPeer, s *wsSession){
		"the client is gone":                func(p *wsPeer, _ *wsSession) { p.Close() },
		"the server closes":                 func(_ *wsPeer, s *wsSession) { s.Close(transport.CodeRestart, "") },
		"the client takes nothing for long": func(*wsPeer, *wsSession) { time.Sleep(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, websocket.Config{MaxQueue: 4 << 10}, func(t *testing.T, p *wsPeer, session *wsSession) {
				var called atomic.Int32
				for session.Send(textFrame(strings.Repeat("x", 1000)), ifRoom) == nil {
				}
				if session.Drained(func() { called.Add(1) }) {
					t.Fatal("drained")
				}
				end(p, session)
				session.end(t)
				synctest.Wait()
				if n := called.Load(); n != 1 {
					t.Errorf("called %d times", n)
				}
				if !session.Drained(func() { t.Error("called after the end") }) {
					t.Error("a connection that has ended is not drained")
				}
				if err := session.Send(textFrame("x"), ifRoom); err != transport.ErrClosed {
					t.Errorf("Send: %v", err)
				}
			})
		})
	}
}
