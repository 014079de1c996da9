package websocket_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport/websocket"
)

// closings are the ways in which the server sends the first close frame.
var closings = []struct {
	name string
	code int
	do   func(p *wsPeer, s *wsSession)
}{
	{"session closes", 1001, func(_ *wsPeer, s *wsSession) { s.Close(1001, "") }},
	{"session fails", 1011, func(p *wsPeer, _ *wsSession) { p.sendText("fail") }},
	{"protocol violation", 1002, func(p *wsPeer, _ *wsSession) { p.write([]byte{fin | opText, 1, 'x'}) }},
	{"message too big", 1009, func(p *wsPeer, _ *wsSession) { p.sendText(strings.Repeat("x", 2000)) }},
}

func startClosing(t *testing.T, s *wsServer) {
	s.ws.SetDrainTime(time.Hour) // so that no timeout ends anything here
	fails := func(w *wsSession) {
		w.receive = func(serializer.Op, []byte) error { return errors.New("failed") }
	}
	s.prepare.Store(&fails)
}

// TestWebSocketCloseEndsTCP checks that TCP ends immediately after the close frame, although the
// client has not answered, and that input on its way does not reset the connection.
func TestWebSocketCloseEndsTCP(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxMessage: 1000}, func(t *testing.T, s *wsServer) {
		startClosing(t, s)
		for _, c := range closings {
			t.Run(c.name, func(t *testing.T) {
				p, session := s.connect()
				session.text(t, "before")
				c.do(p, session)
				for range 20 { // these are on their way before the close frame arrives
					p.sendText(strings.Repeat("x", 900))
				}
				p.want(fin|opText, "before")
				p.wantClose(c.code)
				if _, err := p.br.ReadByte(); err != io.EOF {
					t.Fatalf("behind the close frame: %v", err)
				}
				for range 50 { // the client answers late
					p.sendText(strings.Repeat("y", 900))
				}
				p.send(fin|opClose, closePayload(c.code, ""))
				p.Close()
				session.wantCode(t, c.code)
			})
		}
	})
}

// TestWebSocketCloseBoundsInput checks that a client that keeps sending after the server's close
// frame is disconnected after maxDiscarded.
func TestWebSocketCloseBoundsInput(t *testing.T) {
	t.Parallel()
	onEachPath(t, websocket.Config{MaxMessage: 1000}, func(t *testing.T, s *wsServer) {
		startClosing(t, s)
		for _, c := range closings {
			t.Run(c.name, func(t *testing.T) {
				p, session := s.connect()
				c.do(p, session)
				p.wantClose(c.code)
				frame := maskedFrame(fin|opText, strings.Repeat("z", 900))
				sent, err := 0, error(nil)
				for err == nil && sent < 20*websocket.MaxDiscarded {
					_, err = p.Write(frame)
					sent += len(frame)
				}
				if err == nil || sent <= websocket.MaxDiscarded {
					t.Errorf("after %d bytes: %v", sent, err)
				}
				session.wantCode(t, c.code)
			})
		}
	})
}
