package websocket_test

import (
	"io"
	"strings"
	"testing"

	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// TestWebSocketSendAllocs checks that sending and writing a frame allocates nothing.
func TestWebSocketSendAllocs(t *testing.T) { sendAllocs(t, broadcast) }

// TestWebSocketKeepLatestAllocs checks the same for a frame that replaces another.
func TestWebSocketKeepLatestAllocs(t *testing.T) { sendAllocs(t, latest("ann")) }

func sendAllocs(t *testing.T, how transport.Delivery) {
	if raceEnabled {
		t.Log("under the race detector more is allocated")
		return
	}
	for _, path := range wsPaths[:2] {
		t.Run(path.name, func(t *testing.T) {
			s := startWS(t, websocket.Config{}, path)
			const n = 50
			var sessions []*wsSession
			for range n {
				p, session := s.connect()
				sessions = append(sessions, session)
				go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{p.Conn}, make([]byte, 4096))
			}
			frame := textFrame(strings.Repeat("a", 128))
			sent := uint64(0)
			arrived := func() bool { st := s.ws.Stats(); return st.Bytes+132*st.Conflated >= sent }
			round := func() {
				for _, session := range sessions {
					if err := session.Send(frame, how); err != nil {
						t.Fatal(err)
					}
					sent += 132
				}
			}
			settle := func() {
				eventually(t, "writing", arrived)
			}
			for range 100 {
				round()
			}
			settle()
			allocs := testing.AllocsPerRun(200, func() { round(); round(); round(); round() })
			settle()
			// The garbage collector empties pools, so something is allocated now and then.
			if per := allocs / (4 * n); per > 0.02 {
				t.Errorf("%.3f allocations for each frame sent", per)
			}
		})
	}
}
