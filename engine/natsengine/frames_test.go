package natsengine_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/broker"
	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
)

// attackPing is the number of the ping after whose answer a server attacks. Before it come CONNECT,
// the subscriptions of a node and its first probe.
const attackPing = 4

const serverInfo = `INFO {"server_id":"x","version":"2.10.0","proto":1,"max_payload":1048576,"headers":true}` + "\r\n"

// serve acts as a server. After the first answers it sends the bytes of the attack. Then it hangs
// up, or continues to answer until the client hangs up.
func serve(c net.Conn, attack []byte, hangUp bool) {
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, serverInfo)
	r := bufio.NewReader(c)
	for pings := 0; ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if !strings.HasPrefix(line, "PING") {
			continue
		}
		if _, err := io.WriteString(c, "PONG\r\n"); err != nil {
			return
		}
		if pings++; pings == attackPing && (attack != nil || hangUp) {
			_, _ = c.Write(attack)
			if hangUp {
				return
			}
		}
	}
}

// fakeServer starts a server that attacks its first connection.
func fakeServer(t *testing.T, attack []byte) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for first := true; ; first = false {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if !first {
				attack = nil
			}
			bad := attack
			wg.Go(func() { serve(c, bad, false) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

var malformed = map[string]string{
	"a length beyond memory":   "MSG bennu.a.all 1 999999999999999\r\nx",
	"a length beyond int64":    "MSG bennu.a.all 1 99999999999999999999999999\r\nx",
	"a length above the bound": "MSG bennu.a.all 1 67108865\r\nx",
	"a negative length":        "MSG bennu.a.all 1 -1\r\n",
	"no length":                "MSG bennu.a.all 1 \r\n",
	"a header beyond":          "HMSG bennu.a.all 1 20 10\r\nNATS/1.0\r\n\r\n",
	"a huge header":            "HMSG bennu.a.all 1 999999999999999 999999999999999\r\n",
	"too many arguments":       "MSG bennu.a.all 1 2 3 4\r\n",
	"a subscription":           "MSG bennu.a.all one 1\r\nx\r\n",
	"a longer message":         "MSG bennu.a.all 1 3\r\nlonger\r\n",
	"a carriage return":        "MSG bennu.a.all 1 1\r\rx\r\n",
	"no carriage return":       "PING\n",
	"an operation":             "JUNK\r\n",
	"a client's operation":     "SUB bennu.a.all 1\r\n",
	"binary":                   "\x00\x01\x02\n",
	"an endless line":          strings.Repeat("INFO ", 250_000),
}

// Frames that would end the process inside the client end the connection instead. The node reports
// a gap and reconnects.
func TestMalformed(t *testing.T) {
	t.Parallel()
	for name, attack := range malformed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log brokertest.Log
			cfg := natsengine.Config{
				URL: fakeServer(t, []byte(attack)), Timeout: brokertest.Timeout, Ping: brokertest.Ping,
			}
			a, gaps := runWithLog(t, cfg, &log)
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(log.String())
				}
			})
			brokertest.WaitUntil(t, "notified", func() bool { return strings.Contains(log.String(), "broke the protocol") })
			brokertest.WaitUntil(t, "connected again", func() bool { return a.Health().Connected && gaps() > 0 })
			if strings.Count(log.String(), "broke the protocol") != 2 { // once for the connection, once for the gap
				t.Error(log.String())
			}
		})
	}
}

// Everything that a server may send is accepted, in pieces of any size.
func TestWellFormed(t *testing.T) {
	t.Parallel()
	all := serverInfo + "PING\r\nPONG\r\n+OK\r\n-ERR 'Permissions Violation for Publish to \"x\"'\r\n" +
		"MSG a.b 1 0\r\n\r\nMSG a.b 12 3\r\na\r\n\r\nMSG  a.b 1 reply 2\r\nxx\r\n" +
		"HMSG a.b 1 12 12\r\nNATS/1.0\r\n\r\n\r\nHMSG a.b 1 reply 12 14\r\nNATS/1.0\r\n\r\nab\r\nPING\r\n"
	for size := 1; size <= len(all); size++ {
		pieces := split([]byte(all), size)
		if err := natsengine.CheckFrames(pieces...); err != nil {
			t.Fatalf("in pieces of %d bytes: %v", size, err)
		}
	}
	var frames bytes.Buffer
	frames.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
	frames.WriteString("\x82\x00\x89\x04ping\x8a\x00")
	for i, piece := range split([]byte(all), 100) {
		if i%2 == 0 {
			frames.Write([]byte{0x82, byte(len(piece))})
		} else {
			frames.Write([]byte{0x82, 126, 0, byte(len(piece))})
		}
		frames.Write(piece)
	}
	for size := 1; size <= frames.Len(); size++ {
		if err := natsengine.CheckWebSocket(split(frames.Bytes(), size)...); err != nil {
			t.Fatalf("a WebSocket in pieces of %d bytes: %v", size, err)
		}
	}
	for name, frame := range map[string]string{
		"masked": "\x82\x81aaaa ", "compressed": "\xc2\x01 ", "reserved": "\x83\x01 ", "a long ping": "\x89\x7e\x01\x00",
		"half a ping": "\x09\x00", "huge": "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
		"with a malformed message": "\x82\x0fMSG x 1 99e99\r\n",
	} {
		if natsengine.CheckWebSocket([]byte("HTTP/1.1 101 x\r\n\r\n"+frame)) == nil {
			t.Errorf("accepted a frame that is %s", name)
		}
	}
	if natsengine.CheckWebSocket(bytes.Repeat([]byte("x"), 1<<17)) == nil {
		t.Error("accepted an endless response to the handshake")
	}
}

func split(data []byte, size int) (pieces [][]byte) {
	for len(data) > 0 {
		n := min(size, len(data))
		pieces, data = append(pieces, data[:n]), data[n:]
	}
	return pieces
}

// pipe connects to a server through a net.Pipe.
type pipe struct {
	attack []byte
	wg     *sync.WaitGroup
}

func (p pipe) InProcessConn() (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.wg.Go(func() { serve(theirs, p.attack, true) })
	return ours, nil
}

// The client survives whatever a server sends, since it is checked first. The result of the check
// does not depend on how the bytes are split into pieces.
func FuzzServer(f *testing.F) {
	for _, attack := range malformed {
		if len(attack) < 1000 {
			f.Add([]byte(attack), uint8(7))
		}
	}
	f.Add([]byte("MSG bennu.a.all 1 2\r\nxx\r\nHMSG x 1 12 12\r\nNATS/1.0\r\n\r\n\r\n"), uint8(3))
	refused := "-ERR 'Permissions Violation for Subscription to \"x\"'\r\n"
	f.Add([]byte(refused+serverInfo+"PONG\r\nPONG\r\n+OK\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, attack []byte, size uint8) {
		whole, pieces := natsengine.CheckFrames(attack), natsengine.CheckFrames(split(attack, int(size)+1)...)
		if (whole == nil) != (pieces == nil) {
			t.Errorf("at once: %v; in pieces: %v", whole, pieces)
		}
		_ = natsengine.CheckWebSocket(split(append([]byte("\r\n\r\n"), attack...), int(size)+1)...)
		var wg sync.WaitGroup
		defer wg.Wait()
		e, err := natsengine.NewBackend(natsengine.Config{Options: []nats.Option{nats.InProcessServer(pipe{attack, &wg})}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ignore := func(error) {}
		c, err := e.Dial(ctx, broker.Receiver{Message: func([]byte) {}, Gap: ignore, PathChanged: ignore})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range attackPing {
			_ = c.Send(ctx, &broker.Batch{Subscribe: []string{"bennu.a.all"}})
		}
	})
}
