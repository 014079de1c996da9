package websocket_test

import (
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/transport/websocket"
)

// TestLibraryIsMadeWhenNeeded checks which frames need coder/websocket, and that a connection gives
// it up when its client has paused.
func TestLibraryIsMadeWhenNeeded(t *testing.T) {
	inBubble(t, websocket.Config{}, func(t *testing.T, p *wsPeer, session *wsSession) {
		p.collect()
		want := func(after string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := websocket.HasLibrary(session.Conn); got != want {
				t.Fatalf("after %s: %v", after, got)
			}
		}
		want("the handshake", false)
		p.sendText("whole")
		p.send(fin|opBinary, "whole")
		p.send(fin|opPing, "ping")
		p.send(fin|opPong, "pong")
		want("whole frames", false)
		for _, parts := range [][]byte{
			frames(f(opText, "a"), f(fin|opCont, "b")),
			f(fin|opText, "of which the last byte comes later"),
		} {
			p.write(parts[:len(parts)-1])
			p.write(parts[len(parts)-1:])
			p.sendText("whole")
			want("a message in parts", true)
			time.Sleep(2 * time.Second)
			p.sendText("whole")
			want("a pause", false)
		}
		p.send(fin|opClose, "")
		session.wantCode(t, 1005)
	})
}
