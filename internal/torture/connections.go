package main

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/wstest"
)

// onConnections returns an attack on n connections. Each of n goroutines opens a connection and
// calls once repeatedly. If once fails, it opens another connection. At the end the attack closes
// the connections, so that it does not wait for a server that has stopped reading. It counts the
// calls of once that succeed.
func onConnections(
	n int, open func(addr string) (*client, error), once func(c *client) error,
) func(string, <-chan struct{}) int {
	return func(addr string, end <-chan struct{}) int {
		var done atomic.Int64
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				for !isClosed(end) {
					c, err := open(addr)
					if err != nil {
						continue
					}
					done.Add(c.repeat(end, once))
				}
			})
		}
		wg.Wait()
		return int(done.Load())
	}
}

// repeat calls once until it fails or end is closed, and closes the connection.
func (c *client) repeat(end <-chan struct{}, once func(c *client) error) (done int64) {
	ended := make(chan struct{})
	var closer sync.WaitGroup
	closer.Go(func() {
		select {
		case <-end:
		case <-ended:
		}
		c.Close()
	})
	defer closer.Wait()
	defer close(ended)
	for !isClosed(end) && once(c) == nil {
		done++
	}
	return done
}

// unread returns a function that connects and, if topic is not empty, joins. Nothing reads from the
// connection afterwards.
func unread(topic string) func(addr string) (*client, error) {
	return func(addr string) (*client, error) {
		c, err := dial(addr, topic)
		if err != nil {
			return nil, err
		}
		if t, ok := c.Conn.Conn.(*net.TCPConn); ok {
			_ = t.SetReadBuffer(4096) // otherwise the kernel buffers much before the server notices
		}
		return c, nil
	}
}

// send returns a function that writes b.
func send(b []byte) func(c *client) error {
	return func(c *client) error {
		_, err := c.Write(b)
		return err
	}
}

// repeated returns the frames that n calls of frame append.
func repeated(n int, frame func(b []byte) []byte) (b []byte) {
	for range n {
		b = frame(b)
	}
	return b
}

// neverRead subscribes to the room with constant broadcasts and does not read them. It sends a
// heartbeat now and then, to detect that the server has closed the connection.
var neverRead = onConnections(50, unread("room:flood"), func(c *client) error {
	time.Sleep(50 * time.Millisecond)
	return c.Frame(wstest.Fin|wstest.Text, []byte(`[null,null,"phoenix","heartbeat",{}]`))
})

// endlessMessage starts a message and continues it with empty frames, so that it never exceeds the
// bound on a message's size.
var endlessMessage = onConnections(4, func(addr string) (*client, error) {
	c, err := dial(addr, "")
	if err == nil {
		err = c.Frame(wstest.Text, []byte("["))
	}
	return c, err
}, send(repeated(1000, func(b []byte) []byte { return wstest.AppendFrame(b, wstest.Continuation, nil) })))

// pings sends pings and reads no pongs.
var pings = onConnections(8, unread(""), send(repeated(100, func(b []byte) []byte {
	return wstest.AppendFrame(b, wstest.Fin|wstest.Ping, bytes.Repeat([]byte{'p'}, 125))
})))

// appendPush appends a push whose payload has pad bytes.
func appendPush(b []byte, topic, event string, pad int) []byte {
	message := fmt.Appendf(nil, `["1","2","%s","%s",{"pad":"%s"}]`, topic, event, strings.Repeat("x", pad))
	return wstest.AppendFrame(b, wstest.Fin|wstest.Text, message)
}

// appendJoin appends a join with the given ref.
func appendJoin(b []byte, ref int, topic string) []byte {
	return appendMessage(b, fmt.Sprintf(`["%d","%d","%s","phx_join",{}]`, ref, ref, topic))
}

func appendMessage(b []byte, message string) []byte {
	return wstest.AppendFrame(b, wstest.Fin|wstest.Text, []byte(message))
}

// unreadReplies sends heartbeats and pushes, and reads no replies.
var unreadReplies = onConnections(8, unread("room:x"), send(repeated(10, func(b []byte) []byte {
	b = wstest.AppendFrame(b, wstest.Fin|wstest.Text, []byte(`[null,"1","phoenix","heartbeat",{}]`))
	return appendPush(b, "room:x", "echo", 10_000)
})))

// unreadBroadcasts broadcasts and reads no broadcasts.
var unreadBroadcasts = onConnections(8, unread("room:x"), send(repeated(10, func(b []byte) []byte {
	return appendPush(b, "room:x", "shout", 2000)
})))

// unreadChannels sends pushes to many channels of a socket, and reads no replies.
var unreadChannels = onConnections(8, func(addr string) (*client, error) {
	c, err := unread("room:0")(addr)
	for i := 1; err == nil && i < 50; i++ {
		_, err = c.Write(appendJoin(nil, i, fmt.Sprint("room:", i)))
	}
	return c, err
}, send(func() (b []byte) {
	for i := range 50 {
		b = appendPush(b, fmt.Sprint("room:", i), "echo", 5000)
	}
	return b
}()))

// hangingJoins joins topics whose join callback hangs until its context ends. Each join replaces an
// earlier one of the same topic.
var hangingJoins = onConnections(4, discarding(""), func(c *client) error {
	var b []byte
	for i := range 50 {
		b = appendJoin(b, i, fmt.Sprint("stuck:", i%10))
	}
	_, err := c.Write(b)
	time.Sleep(100 * time.Millisecond) // stays below Config.JoinRate, so that every join reaches the callback
	return err
})

// stuckCallback sends pushes to a callback that hangs until its context ends.
var stuckCallback = onConnections(8, discarding("room:x"), send(repeated(10, func(b []byte) []byte {
	return appendPush(b, "room:x", "hang", 10_000)
})))

// discarding returns a function that connects and, if topic is not empty, joins. Everything that
// the server sends is discarded.
func discarding(topic string) func(addr string) (*client, error) {
	return func(addr string) (*client, error) {
		c, err := dial(addr, topic)
		if err != nil {
			return nil, err
		}
		c.discard()
		return c, nil
	}
}
