package socket_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/internal/wstest"
)

// TestCrowd is the process in which the clients of other tests run. It tests nothing.
func TestCrowd(t *testing.T) {
	addr := os.Getenv("BENNU_CROWD_OF")
	if addr == "" {
		return // in all other processes
	}
	size, _ := strconv.Atoi(os.Getenv("BENNU_CROWD_SIZE"))
	topics, _ := strconv.Atoi(os.Getenv("BENNU_CROWD_TOPICS"))
	var got atomic.Int64
	var readers sync.WaitGroup
	var all []*wstest.Conn
	for i := range size {
		c, err := wstest.Dial(addr, "/socket/websocket?vsn=2.0.0")
		if err == nil {
			err = c.Send(fmt.Appendf(nil, `["1","1","room:%d","phx_join",{}]`, i%topics))
		}
		var reply []byte
		if err == nil {
			reply, err = c.Text()
		}
		if err != nil || !strings.Contains(string(reply), `"status":"ok"`) {
			t.Fatalf("client %d: %s, %v", i, reply, err)
		}
		all = append(all, c)
	}
	for _, c := range all {
		readers.Go(func() {
			for {
				if _, err := c.Text(); err != nil {
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
			time.Sleep(100 * time.Microsecond) // poll, because another process counts
		}
	}
	for _, c := range all {
		c.Close()
	}
	readers.Wait()
}

// crowd is a set of clients in another process, each joined to one of the topics room:0, room:1, …
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
		c.t.Fatalf("the crowd printed %q", c.out.Text())
	}
}

// receive waits until all clients together have received n more frames.
func (c *crowd) receive(n int) {
	c.t.Helper()
	c.want += int64(n)
	fmt.Fprintln(c.in, c.want)
	c.read()
}
