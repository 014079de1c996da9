package main

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/wstest"
)

// attack is a way to harm a server. run attacks until end is closed and returns a count, which must
// not be zero.
type attack struct {
	name string
	run  func(addr string, end <-chan struct{}) int
}

var attacks = []attack{
	{"slow handshakes", slowHandshakes},
	{"subscribers that never read", neverRead},
	{"flood of joins", floodOfJoins},
	{"flood of connections", many(8, connectAndClose)},
	{"flood of sessions", many(8, openSession)},
	{"fragments of one byte", many(4, fragments)},
	{"compressed bombs", many(4, bomb)},
	{"random frames", many(4, randomFrames)},
	{"truncated frames", many(8, truncated)},
	{"deep JSON", many(4, deepJSON)},
	{"half-closed and reset connections", many(8, halfClosed)},
	{"bodies of newlines", many(4, postNewlines)},
	{"huge messages", many(4, hugeMessage)},
	{"endless messages", endlessMessage},
	{"pings, unread pongs", pings},
	{"pushes, unread replies", unreadReplies},
	{"unread broadcasts", unreadBroadcasts},
	{"unread replies of many channels", unreadChannels},
	{"posts without polls", many(8, postOnly)},
	{"joins that hang", hangingJoins},
	{"pushes to a stuck callback", stuckCallback},
	{"slow bodies", slowBodies},
	{"handshakes with slow bodies", slowHandshakeBodies},
	{"large bodies of one session", largeBodies},
	{"forged positions", many(4, forgedPositions)},
	{"topics with one record", many(4, manyTopics)},
	{"unread replays", unreadReplays},
	{"flood of pages", floodOfPages},
}

// maxWait bounds the wait for the server to end a connection that it must end.
const maxWait = 10 * time.Second

// isClosed reports whether end is closed.
func isClosed(end <-chan struct{}) bool {
	select {
	case <-end:
		return true
	default:
		return false
	}
}

// many returns an attack that calls once repeatedly in each of n goroutines, at least one time. It
// counts the calls that succeed.
func many(n int, once func(addr string) error) func(string, <-chan struct{}) int {
	return func(addr string, end <-chan struct{}) int {
		var done atomic.Int64
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				for first := true; first || !isClosed(end); first = false {
					if once(addr) == nil {
						done.Add(1)
					}
				}
			})
		}
		wg.Wait()
		return int(done.Load())
	}
}

// trickle returns an attack on n connections. It writes head to each, then the bytes of rest one at
// a time, and the last byte repeatedly. It counts the connections.
func trickle(n int, pause time.Duration, head, rest string) func(string, <-chan struct{}) int {
	return func(addr string, end <-chan struct{}) int {
		var all []net.Conn
		defer func() {
			for _, c := range all {
				c.Close()
			}
		}()
		for range n {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				break
			}
			all = append(all, c)
			_, _ = io.WriteString(c, head) // fails if the server has closed the connection
		}
		for i := 0; !isClosed(end); i++ {
			for _, c := range all {
				_, _ = c.Write([]byte{rest[min(i, len(rest)-1)]})
			}
			time.Sleep(pause)
		}
		return len(all)
	}
}

// slowHandshakes sends the heads of handshakes one byte at a time.
var slowHandshakes = trickle(300, 5*time.Millisecond,
	"", "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nX-Slow: z")

// floodOfJoins joins as many topics as it can without waiting for replies.
func floodOfJoins(addr string, end <-chan struct{}) int {
	return many(4, func(addr string) error {
		c, err := dial(addr, "")
		if err != nil {
			return err
		}
		defer c.Close()
		c.discard()
		var b []byte
		for i := range 2000 {
			b = appendJoin(b, i, fmt.Sprint("room:", i))
		}
		c.SetWriteDeadline(time.Now().Add(maxWait))
		_, err = c.Write(b)
		return err
	})(addr, end)
}

// connectAndClose joins a room and closes the connection.
func connectAndClose(addr string) error {
	c, err := dial(addr, "room:x")
	if err != nil {
		return err
	}
	return c.Close()
}

// awaitEnd waits until the server has closed the connection.
func (c *client) awaitEnd() error {
	c.SetReadDeadline(time.Now().Add(maxWait))
	_, err := io.Copy(io.Discard, c)
	return err
}

// fragments sends one message in many frames of one byte.
func fragments(addr string) error {
	c, err := dial(addr, "")
	if err != nil {
		return err
	}
	defer c.Close()
	message := `[null,"1","phoenix","heartbeat",{"pad":"` + strings.Repeat("x", 50_000) + `"}]`
	var b []byte
	for i := range message {
		var first byte = wstest.Continuation
		if i == 0 {
			first = wstest.Text
		}
		if i == len(message)-1 {
			first |= wstest.Fin
		}
		b = wstest.AppendFrame(b, first, []byte(message[i:i+1]))
	}
	c.SetDeadline(time.Now().Add(maxWait))
	_, _ = c.Write(b)
	_, _ = c.Text() // the reply, or an error if the server refuses so many frames
	return nil
}

// zeros returns 64 MiB of zeros, deflated. It repeats one deflated MiB, which ends at a byte
// boundary and refers to nothing before it. To deflate all of them takes a minute under the race
// detector.
var zeros = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		panic(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		panic(err)
	}
	if err := w.Flush(); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(bytes.Repeat(b.Bytes(), 64), []byte{0, 0, 0xff, 0xff})
})

// bomb sends a small compressed message that would be large when inflated.
func bomb(addr string) error {
	c, err := dial(addr, "", "Sec-WebSocket-Extensions: permessage-deflate")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(maxWait))
	_ = c.Frame(wstest.Fin|wstest.Rsv1|wstest.Text, zeros()) // fails if the server closes the connection first
	return c.awaitEnd()
}

// randomFrames sends a frame with a random header and random bytes after it.
func randomFrames(addr string) error {
	c, err := dial(addr, "room:x")
	if err != nil {
		return err
	}
	defer c.Close()
	junk := make([]byte, rand.IntN(2000))
	for i := range junk {
		junk[i] = byte(rand.Uint32())
	}
	_ = c.Frame(wstest.Fin|byte(rand.IntN(128)), junk)
	_, _ = c.Write(junk)
	return c.Close() // the server may be waiting for the rest of a frame
}

// truncated sends a part of a frame.
func truncated(addr string) error {
	c, err := dial(addr, "room:x")
	if err != nil {
		return err
	}
	defer c.Close()
	f := wstest.AppendFrame(nil, wstest.Fin|wstest.Text, []byte(`["1","2","room:x","echo",{"x":1}]`))
	_, err = c.Write(f[:1+rand.IntN(len(f)-1)])
	return err
}

// deepJSON sends a deeply nested array.
func deepJSON(addr string) error {
	c, err := dial(addr, "")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(maxWait))
	_ = c.Frame(wstest.Fin|wstest.Text, bytes.Repeat([]byte{'['}, 1<<20-100))
	c.SetReadDeadline(time.Now().Add(maxWait))
	_, _ = c.Text() // the server's close frame, which this client does not answer
	return nil
}

// halfClosed closes the sending side of the connection, or resets the connection.
func halfClosed(addr string) error {
	c, err := dial(addr, "room:x")
	if err != nil {
		return err
	}
	defer c.Close()
	t := c.Conn.Conn.(*net.TCPConn)
	if rand.IntN(2) == 0 {
		if err := t.SetLinger(0); err != nil {
			return err
		}
		return t.Close()
	}
	if err := t.CloseWrite(); err != nil {
		return err
	}
	return c.awaitEnd()
}

// hugeMessage sends a message that is larger than the server's bound.
func hugeMessage(addr string) error {
	c, err := dial(addr, "")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(maxWait))
	_ = c.Frame(wstest.Fin|wstest.Binary, newlines)
	_ = c.awaitEnd() // may fail with a reset, because the server did not read everything
	return nil
}
