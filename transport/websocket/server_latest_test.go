package websocket_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// latest returns the Delivery of a frame of which only the newest per key matters.
func latest(of string) transport.Delivery {
	return transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("room:1", "moved", of)}
}

// TestWebSocketSlowKeepLatest checks that a client that did not read receives the newest frame of
// each key and all other frames in order. Another client receives everything meanwhile.
func TestWebSocketSlowKeepLatest(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 40_000, OnSlow: transport.DropOldest}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		other, otherSession := s.connect()
		fill(t, s, session, strings.Repeat("x", 1000))
		const rounds, replies = 3000, 3
		for i := 1; i <= rounds; i++ {
			for _, of := range []string{"ann", "bob"} {
				f := textFrame(fmt.Sprint(i, " ", of, strings.Repeat(".", 500)))
				for _, to := range []*wsSession{session, otherSession} {
					if err := to.Send(f, latest(of)); err != nil {
						t.Fatalf("round %d: %v", i, err)
					}
				}
				other.want(fin|opText, string(f.Data))
			}
			if i%(rounds/replies) == 0 {
				session.text(t, fmt.Sprint(i, " reply"))
			}
		}
		session.text(t, "last")
		var tail []string
		arrived, before := 0, map[string]int{}
		for {
			_, b := p.frame()
			if string(b) == "last" {
				break
			}
			var n int
			var what string
			if _, err := fmt.Sscan(string(b), &n, &what); err != nil {
				t.Fatalf("frame %.20q: %v", b, err)
			}
			what = strings.TrimRight(what, ".")
			if last, ok := before[what]; ok && n <= last {
				t.Fatalf("%d of %q after %d", n, what, last)
			}
			before[what] = n
			if what == "ann" || what == "bob" {
				arrived++
			}
			tail = append(tail, fmt.Sprint(n, " ", what))
		}
		want := []string{"1000 reply", "2000 reply", "3000 ann", "3000 bob", "3000 reply"}
		if got := tail[max(0, len(tail)-len(want)):]; !slices.Equal(got, want) {
			t.Errorf("at last came %q, want %q", got, want)
		}
		if st := s.ws.Stats(); st.Conflated != uint64(2*rounds-arrived) || st.Slow != 0 {
			t.Errorf("%d arrived, %+v", arrived, st)
		}
		p.finish(session)
		other.finish(otherSession)
	})
}

// TestWebSocketSlowTooManyKeys checks that more keys than fit in the queue end the connection,
// because the newest frame of a key is never dropped.
func TestWebSocketSlowTooManyKeys(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxQueue: 40_000, OnSlow: transport.DropOldest}, func(t *testing.T, s *wsServer) {
		p, session := s.connect()
		fill(t, s, session, strings.Repeat("x", 1000))
		var err error
		for i := 0; err == nil && i < 10_000; i++ {
			err = session.Send(textFrame(strings.Repeat(".", 500)), latest(fmt.Sprint(i)))
		}
		if err != transport.ErrFull {
			t.Errorf("Send: %v", err)
		}
		if st := s.ws.Stats(); st.Slow != 1 || st.Conflated != 0 {
			t.Errorf("%+v", st)
		}
		p.Close()
		s.ws.Wait()
	})
}
