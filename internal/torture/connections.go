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

// busy keeps n connections busy: each goroutine dials one with open, which may begin something on it, and then runs once over and over, on a new
// connection whenever that fails. At the end it closes them, so that nobody waits for a server that does not read. What it counts are the runs.
func busy(n int, open func(addr string) (*client, error), once func(c *client) error) func(string, <-chan struct{}) int {
	return func(addr string, end <-chan struct{}) int {
		var done atomic.Int64
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				for !over(end) {
					c, err := open(addr)
					if err != nil {
						continue
					}
					done.Add(c.busy(end, once))
				}
			})
		}
		wg.Wait()
		return int(done.Load())
	}
}

// busy runs once until it fails, and ends the connection.
func (c *client) busy(end <-chan struct{}, once func(c *client) error) (done int64) {
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
	for !over(end) && once(c) == nil {
		done++
	}
	return done
}

// deaf connects, joins if topic is not empty, and does not listen from then on.
func deaf(topic string) func(addr string) (*client, error) {
	return func(addr string) (*client, error) {
		c, err := dial(addr, topic)
		if err != nil {
			return nil, err
		}
		if t, ok := c.Conn.Conn.(*net.TCPConn); ok {
			_ = t.SetReadBuffer(4096) // the kernel would take much before the server notices
		}
		return c, nil
	}
}

// send writes the same again and again.
func send(b []byte) func(c *client) error {
	return func(c *client) error {
		_, err := c.Write(b)
		return err
	}
}

// repeated is n times what frame says.
func repeated(n int, frame func(b []byte) []byte) (b []byte) {
	for range n {
		b = frame(b)
	}
	return b
}

// Subscribers of the room where somebody always talks, who do not listen. They say something now and then, to see whether they were thrown out,
// and then come again.
var neverRead = busy(50, deaf("room:flood"), func(c *client) error {
	time.Sleep(50 * time.Millisecond)
	return c.Frame(wstest.Fin|wstest.Text, []byte(`[null,null,"phoenix","heartbeat",{}]`))
})

// Endless messages: begun, and gone on with by frames that are empty, so that no bound on a message's size is ever met.
var endless = busy(4, func(addr string) (*client, error) {
	c, err := dial(addr, "")
	if err == nil {
		err = c.Frame(wstest.Text, []byte("["))
	}
	return c, err
}, send(repeated(1000, func(b []byte) []byte { return wstest.AppendFrame(b, wstest.Continuation, nil) })))

// Pings, of whose pongs none is read.
var pings = busy(8, deaf(""), send(repeated(100, func(b []byte) []byte {
	return wstest.AppendFrame(b, wstest.Fin|wstest.Ping, bytes.Repeat([]byte{'p'}, 125))
})))

// Heartbeats and echoes, of whose replies none is read.
var unread = busy(8, deaf("room:x"), send(repeated(10, func(b []byte) []byte {
	b = wstest.AppendFrame(b, wstest.Fin|wstest.Text, []byte(`[null,"1","phoenix","heartbeat",{}]`))
	return wstest.AppendFrame(b, wstest.Fin|wstest.Text, fmt.Appendf(nil, `["1","2","room:x","echo",{"pad":"%s"}]`, strings.Repeat("x", 10_000)))
})))

// Broadcasts of their own, of which none is read.
var unreadBroadcasts = busy(8, deaf("room:x"), send(repeated(10, func(b []byte) []byte {
	return wstest.AppendFrame(b, wstest.Fin|wstest.Text, fmt.Appendf(nil, `["1","2","room:x","shout",{"pad":"%s"}]`, strings.Repeat("x", 2000)))
})))

// Pushes to many channels of a socket, of whose replies none is read.
var unreadChannels = busy(8, func(addr string) (*client, error) {
	c, err := deaf("room:0")(addr)
	for i := 1; err == nil && i < 50; i++ {
		err = c.Frame(wstest.Fin|wstest.Text, fmt.Appendf(nil, `["1","%d","room:%d","phx_join",{}]`, i, i))
	}
	return c, err
}, send(func() (b []byte) {
	for i := range 50 {
		b = wstest.AppendFrame(b, wstest.Fin|wstest.Text, fmt.Appendf(nil, `["1","2","room:%d","echo",{"pad":"%s"}]`, i, strings.Repeat("x", 5000)))
	}
	return b
}()))

// Joins that hang until they are told to stop, each of which takes the place of the one before.
var hangingJoins = busy(4, listening(""), func(c *client) error {
	var b []byte
	for i := range 50 {
		b = wstest.AppendFrame(b, wstest.Fin|wstest.Text, fmt.Appendf(nil, `["%d","%d","stuck:%d","phx_join",{}]`, i, i, i%10))
	}
	_, err := c.Write(b)
	time.Sleep(100 * time.Millisecond) // as many as Config.JoinRate lets through, so that all reach a callback
	return err
})

// Pushes to a callback that hangs until it is told to stop.
var stuckCallback = busy(8, listening("room:x"), send(repeated(10, func(b []byte) []byte {
	return wstest.AppendFrame(b, wstest.Fin|wstest.Text, fmt.Appendf(nil, `["1","2","room:x","hang",{"pad":"%s"}]`, strings.Repeat("x", 10_000)))
})))

// listening connects, joins if topic is not empty, and throws away what comes.
func listening(topic string) func(addr string) (*client, error) {
	return func(addr string) (*client, error) {
		c, err := dial(addr, topic)
		if err != nil {
			return nil, err
		}
		c.discard()
		return c, nil
	}
}
