package longpoll_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// sendIfRoom sends numbered messages until one finds no room.
func (s *testSession) sendIfRoom(t *testing.T, sent *int) {
	t.Helper()
	for {
		text := fmt.Sprintf("[%d,%q]", *sent, strings.Repeat("x", 1000))
		f := &serializer.Frame{Op: serializer.OpText, Data: []byte(text)}
		switch err := s.Send(f, transport.Delivery{IfRoom: true}); err {
		case nil:
			*sent++
		case transport.ErrNoRoom:
			return
		default:
			t.Fatalf("message %d: %v", *sent, err)
		}
	}
}

func TestDrained(t *testing.T) {
	t.Parallel()
	cfg := longpoll.Config{MaxQueue: 16 << 10}
	withSession(t, cfg, func(t *testing.T, s *testServer, token string, session *testSession) {
		if !session.Drained(func() { t.Error("called, although the session was drained") }) {
			t.Fatal("an idle session is not drained")
		}
		sent, got := 0, 0
		session.sendIfRoom(t, &sent)
		var called atomic.Int32
		for round := range int32(3) {
			if session.Drained(func() { t.Error("the replaced function was called") }) {
				t.Fatal("drained")
			}
			session.Drained(func() { called.Add(1); session.sendIfRoom(t, &sent) })
			synctest.Wait()
			if n := called.Load(); n != round {
				t.Fatalf("called %d times before poll %d", n, round)
			}
			answer := s.get(token)
			for _, m := range answer.Messages {
				if !strings.HasPrefix(m, fmt.Sprintf("[%d,", got)) {
					t.Fatalf("message %d is %.20q", got, m)
				}
				got++
			}
			synctest.Wait()
			if n := called.Load(); n != round+1 {
				t.Fatalf("called %d times after poll %d", n, round)
			}
		}
		if got < 20 || sent <= got {
			t.Errorf("%d messages of %d", got, sent)
		}
		if st := s.Stats(); st.Slow != 0 || st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestDrainedWhenItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, longpoll.Config{MaxQueue: 4 << 10})
		_, session := s.open()
		sent := 0
		session.sendIfRoom(t, &sent)
		var called atomic.Int32
		if session.Drained(func() { called.Add(1) }) {
			t.Fatal("drained")
		}
		s.end()
		if n := called.Load(); n != 1 {
			t.Errorf("called %d times", n)
		}
		if !session.Drained(func() { t.Error("called after the end") }) {
			t.Error("a session that has ended is not drained")
		}
		f := &serializer.Frame{Op: serializer.OpText, Data: []byte("[]")}
		if err := session.Send(f, transport.Delivery{IfRoom: true}); err != transport.ErrClosed {
			t.Errorf("Send: %v", err)
		}
	})
}
