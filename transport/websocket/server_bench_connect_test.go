package websocket_test

import (
	"io"
	"net"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// BenchmarkWebSocketConnect opens a connection, sends a message, and closes the connection. The
// client, which is bare, is in the same process: 24 of the allocations are its own.
func BenchmarkWebSocketConnect(b *testing.B) {
	s := startWS(b, websocket.Config{}, wsPaths[0])
	open := func(transport.Conn) transport.Session { return discard{} }
	s.open.Store(&open)
	request := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n\r\n"
	frames := frames(f(fin|opText, "hello"), f(fin|opClose, closePayload(1000, "")))
	in := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		nc, err := net.Dial("tcp", s.addr)
		if err != nil {
			b.Fatal(err)
		}
		for _, out := range []string{request, string(frames)} {
			if _, err = io.WriteString(nc, out); err == nil {
				_, err = nc.Read(in)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			b.Fatal(err)
		}
		nc.Close()
	}
	s.ws.Wait()
}

// discard is a session that does nothing.
type discard struct{}

func (discard) Receive(serializer.Op, []byte) error { return nil }
func (discard) Closed(error)                        {}
