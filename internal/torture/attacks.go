package main

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/wstest"
)

// attack is a way to harm a server. Run attacks until end is closed, and returns how often it did.
type attack struct {
	name string
	run  func(addr string, end <-chan struct{}) int
}

var attacks = []attack{
	{"slow handshakes", slowHandshakes},
	{"subscribers that never read", neverRead},
	{"flood of joins", floodOfJoins},
	{"flood of connections", many(8, connectAndGo)},
	{"flood of sessions", many(8, openSession)},
	{"fragments of one byte", many(4, fragments)},
	{"compressed bombs", many(4, bomb)},
	{"random frames", many(4, randomFrames)},
	{"truncated frames", many(8, truncated)},
	{"deep JSON", many(4, deepJSON)},
	{"half-closed and reset", many(8, halfClosed)},
	{"bodies of newlines", many(4, newlines)},
	{"huge messages", many(4, hugeMessage)},
	{"endless messages", endless},
	{"pings without reading", pings},
	{"replies that nobody reads", unread},
	{"own broadcasts that nobody reads", unreadBroadcasts},
	{"pushes to many channels, unread", unreadChannels},
	{"posts without polls", many(8, postsOnly)},
	{"joins that hang", hangingJoins},
	{"pushes to a stuck callback", stuckCallback},
	{"slow bodies", slowBodies},
	{"handshakes with bodies", unsentBodies},
	{"large bodies of one session", largeBodies},
}

// patience is how long an attacker waits for the server to end what it must end.
const patience = 10 * time.Second

func over(end <-chan struct{}) bool {
	select {
	case <-end:
		return true
	default:
		return false
	}
}

// many runs once over and over in each of n goroutines, at least one time, and counts the runs
// that succeed.
func many(n int, once func(addr string) error) func(string, <-chan struct{}) int {
	return func(addr string, end <-chan struct{}) int {
		var done atomic.Int64
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				for first := true; first || !over(end); first = false {
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

// trickle opens connections and writes to each the head at once, then the rest a byte at a time, and its last byte again and again.
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
			_, _ = io.WriteString(c, head) // the server may close it at any time, as it should
		}
		for i := 0; !over(end); i++ {
			for _, c := range all {
				_, _ = c.Write([]byte{rest[min(i, len(rest)-1)]})
			}
			time.Sleep(pause)
		}
		return len(all)
	}
}

// Requests whose heads come a byte at a time, and bodies that do.
var (
	slowHandshakes = trickle(300, 5*time.Millisecond, "", "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nX-Slow: z")
	slowBodies     = trickle(200, 20*time.Millisecond, "POST /socket/longpoll?vsn=2.0.0&token=none HTTP/1.1\r\nHost: x\r\n"+
		"Content-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n", "[")
)

// floodOfJoins joins as many topics as it can, without waiting for answers.
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
			b = wstest.AppendFrame(b, wstest.Fin|wstest.Text, fmt.Appendf(nil, `["%d","%d","room:%d","phx_join",{}]`, i, i, i))
		}
		c.SetWriteDeadline(time.Now().Add(patience))
		_, err = c.Write(b)
		return err
	})(addr, end)
}

func connectAndGo(addr string) error {
	c, err := dial(addr, "room:x")
	if err != nil {
		return err
	}
	return c.Close()
}

func openSession(addr string) error {
	resp, err := http.Get("http://" + addr + "/socket/longpoll?vsn=2.0.0")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// ended waits until the server has closed the connection.
func (c *client) ended() error {
	c.SetReadDeadline(time.Now().Add(patience))
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
	c.SetDeadline(time.Now().Add(patience))
	_, _ = c.Write(b)
	_, _ = c.Text() // the answer, or the end: so many may be too many
	return nil
}

// zeros is 64 MB of zeros, deflated. One deflated megabyte that ends at a byte boundary and refers
// to nothing before it is repeated: to deflate all of it takes a minute under the race detector.
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

func bomb(addr string) error {
	c, err := dial(addr, "", "Sec-WebSocket-Extensions: permessage-deflate")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(patience))
	_ = c.Frame(wstest.Fin|wstest.Rsv1|wstest.Text, zeros()) // the server may have had enough before it is written
	return c.ended()
}

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
	// Closed by our side: it may be waiting for more of a frame.
	return c.Close()
}

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

func deepJSON(addr string) error {
	c, err := dial(addr, "")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(patience))
	_ = c.Frame(wstest.Fin|wstest.Text, bytes.Repeat([]byte{'['}, 1<<20-100))
	c.SetReadDeadline(time.Now().Add(patience))
	_, _ = c.Text() // the close, which is not answered
	return nil
}

// halfClosed ends its sending side, or all at once with a reset.
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
	return c.ended()
}

var body = bytes.Repeat([]byte{'\n'}, 7_900_000)

func newlines(addr string) error {
	resp, err := http.Get("http://" + addr + "/socket/longpoll?vsn=2.0.0")
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return err
	}
	token, ok := tokenIn(text)
	if !ok { // no room for more sessions: the body is not read at all then
		token = "none"
	}
	resp, err = http.Post("http://"+addr+"/socket/longpoll?vsn=2.0.0&token="+token, "application/x-ndjson", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// tokenIn finds the token of a new long-poll session.
func tokenIn(answer []byte) (token string, ok bool) {
	_, rest, _ := strings.Cut(string(answer), `"token":"`)
	token, _, ok = strings.Cut(rest, `"`)
	return token, ok
}

// postsOnly opens a session and posts pushes whose answers it never polls, until the session ends.
func postsOnly(addr string) error {
	url := "http://" + addr + "/socket/longpoll?vsn=2.0.0"
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return err
	}
	token, ok := tokenIn(text)
	if !ok {
		return errNoSession
	}
	pushes := `["1","1","room:x","phx_join",{}]` + "\n" + strings.Repeat(`["1","2","room:x","echo",{"pad":"`+strings.Repeat("x", 10_000)+`"}]`+"\n", 400)
	for {
		resp, err := http.Post(url+"&token="+token, "application/x-ndjson", strings.NewReader(strings.TrimSuffix(pushes, "\n")))
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if !strings.Contains(string(answer), `"status":200`) {
			return nil
		}
	}
}

var errNoSession = errors.New("no session")

// hugeMessage announces more than the server takes, and sends it.
func hugeMessage(addr string) error {
	c, err := dial(addr, "")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(patience))
	_ = c.Frame(wstest.Fin|wstest.Binary, body)
	_ = c.ended() // it may be a reset, as we still wrote
	return nil
}
