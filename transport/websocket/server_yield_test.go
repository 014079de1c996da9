package websocket_test

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport/websocket"
)

// TestFramesAcrossReadsYield checks that other goroutines get turns while the messages of a client
// are read that has sent many, also if no frame ends where a read does.
func TestFramesAcrossReadsYield(t *testing.T) { // not parallel: with one processor, a turn needs a yield
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const messages = 60 // they fit into the buffers of the kernel
	text := strings.Repeat("x", 1000)
	for _, path := range wsPaths {
		t.Run(path.name, func(t *testing.T) {
			s := startWS(t, websocket.Config{}, path)
			var turns atomic.Int64
			var seen int64
			var count, row, most int
			sent, received := make(chan struct{}), make(chan struct{})
			receive := func(serializer.Op, []byte) error {
				if count == 0 {
					<-sent
				}
				if now := turns.Load(); now != seen {
					seen, row = now, 0
				}
				row++
				most = max(most, row)
				if count++; count == messages {
					close(received)
				}
				return nil
			}
			prepare := func(w *wsSession) { w.receive = receive }
			s.prepare.Store(&prepare)
			p, session := s.connect()
			if _, err := p.Write([]byte(strings.Repeat(string(maskedFrame(fin|opText, text)), messages))); err != nil {
				t.Fatal(err)
			}
			var end atomic.Bool
			var other sync.WaitGroup
			other.Go(func() {
				for !end.Load() {
					turns.Add(1)
					runtime.Gosched()
				}
			})
			close(sent)
			<-received
			end.Store(true)
			other.Wait()
			// It is those of one or two reads if the other goroutine uses each of its turns.
			if most > messages/2 {
				t.Errorf("%d of %d messages were received in a row", most, messages)
			}
			p.finish(session)
		})
	}
}
