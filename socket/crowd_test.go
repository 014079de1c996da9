package socket_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rawClient is a WebSocket client that allocates nothing per frame, so that what is measured is the server.
type rawClient struct {
	nc  net.Conn
	br  *bufio.Reader
	out []byte
	in  []byte
}

func dialRaw(addr, query string) (*rawClient, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &rawClient{nc: nc, br: bufio.NewReader(nc)}
	fmt.Fprintf(nc, "GET /socket/websocket?%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", query, addr)
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("answered %s", resp.Status)
	}
	return c, nil
}

// send writes a text frame, masked with zeros.
func (c *rawClient) send(text []byte) error {
	c.out = append(c.out[:0], 0x81)
	if len(text) < 126 {
		c.out = append(c.out, 0x80|byte(len(text)))
	} else {
		c.out = append(c.out, 0x80|126, byte(len(text)>>8), byte(len(text)))
	}
	c.out = append(c.out, 0, 0, 0, 0)
	c.out = append(c.out, text...)
	_, err := c.nc.Write(c.out)
	return err
}

// next reads a frame; it holds until the next call.
func (c *rawClient) next() ([]byte, error) {
	var h [10]byte
	if _, err := io.ReadFull(c.br, h[:2]); err != nil {
		return nil, err
	}
	n := int(h[1] & 127)
	if n > 125 {
		size := map[int]int{126: 2, 127: 8}[n]
		if _, err := io.ReadFull(c.br, h[2:2+size]); err != nil {
			return nil, err
		}
		if n = int(binary.BigEndian.Uint16(h[2:])); size == 8 {
			n = int(binary.BigEndian.Uint64(h[2:]))
		}
	}
	if cap(c.in) < n {
		c.in = make([]byte, n)
	}
	c.in = c.in[:n]
	_, err := io.ReadFull(c.br, c.in)
	return c.in, err
}

// TestCrowd is not a test: it is the process in which the clients of other tests live.
func TestCrowd(t *testing.T) {
	addr := os.Getenv("BENNU_CROWD_OF")
	if addr == "" {
		return // as everywhere but in that process
	}
	size, _ := strconv.Atoi(os.Getenv("BENNU_CROWD_SIZE"))
	topics, _ := strconv.Atoi(os.Getenv("BENNU_CROWD_TOPICS"))
	var got atomic.Int64
	var readers sync.WaitGroup
	var all []*rawClient
	for i := range size {
		c, err := dialRaw(addr, "vsn=2.0.0")
		if err == nil {
			err = c.send(fmt.Appendf(nil, `["1","1","room:%d","phx_join",{}]`, i%topics))
		}
		var reply []byte
		if err == nil {
			reply, err = c.next()
		}
		if err != nil || !strings.Contains(string(reply), `"status":"ok"`) {
			t.Fatalf("client %d: %s, %v", i, reply, err)
		}
		all = append(all, c)
	}
	for _, c := range all {
		readers.Go(func() {
			for {
				if _, err := c.next(); err != nil {
					return
				}
				got.Add(1)
			}
		})
	}
	say := func() { fmt.Fprintln(os.Stderr, "got", got.Load()) }
	say()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); say() {
		for want, _ := strconv.ParseInt(in.Text(), 10, 64); got.Load() < want; {
			time.Sleep(100 * time.Microsecond) // polls: the count is kept by another process
		}
	}
	for _, c := range all {
		c.nc.Close()
	}
	readers.Wait()
}

// crowd is clients in another process, each joined to one of the topics room:0, room:1, …
type crowd struct {
	t    testing.TB
	in   io.WriteCloser
	out  *bufio.Scanner
	want int64
}

func (s *server) crowd(t testing.TB, size, topics int) *crowd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrowd$")
	cmd.Env = append(os.Environ(), "BENNU_CROWD_OF="+strings.TrimPrefix(s.url, "http://"),
		"BENNU_CROWD_SIZE="+strconv.Itoa(size), "BENNU_CROWD_TOPICS="+strconv.Itoa(topics))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &crowd{t: t, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	c.read()
	return c
}

func (c *crowd) read() {
	c.t.Helper()
	if !c.out.Scan() || !strings.HasPrefix(c.out.Text(), "got ") {
		c.t.Fatalf("the crowd says %q", c.out.Text())
	}
}

// receive waits until n more frames have come, over all clients.
func (c *crowd) receive(n int) {
	c.t.Helper()
	c.want += int64(n)
	fmt.Fprintln(c.in, c.want)
	c.read()
}
