//go:build unix

package socket

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

// TestStoppedProcess stops the process of a client for longer than WakeAfter. When it goes on, the
// client sends one heartbeat, which is answered, and keeps its connection.
func TestStoppedProcess(t *testing.T) {
	t.Parallel()
	if url := os.Getenv("BENNU_STOPPED_PROCESS"); url != "" {
		beStopped(t, url)
		return
	}
	if testing.Short() {
		t.Skip("it takes 10 s, for which the process is stopped")
	}
	ps := pubsub.New(nil)
	h := NewHandler(Config{PubSub: ps, Channels: rooms(nil, make(chan error, 10))})
	server := httptest.NewUnstartedServer(h)
	beats := &beatListener{Listener: server.Listener}
	server.Listener = beats
	server.Start()
	defer server.Close()
	defer func() {
		if err := h.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStoppedProcess$") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), "BENNU_STOPPED_PROCESS="+server.URL)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	await := func(line string) {
		t.Helper()
		for said.Scan() {
			if said.Text() == line {
				return
			}
			if strings.HasPrefix(said.Text(), "state") {
				t.Errorf("the client: %s", said.Text())
			}
		}
		t.Fatalf("the process has ended before %q", line)
	}
	await("joined")
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(clientClockCheck + 3*time.Second) // the process must really be stopped for so long
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); beats.answered.Load() == 0; <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no heartbeat")
		}
	}
	if err := ps.Broadcast(t.Context(), "room:1", "news", nil); err != nil {
		t.Fatal(err)
	}
	await("news")
	if n := beats.answered.Load(); n != 1 {
		t.Errorf("%d heartbeats", n)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	await("closed")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// beStopped is the process: a client that has no reason for a heartbeat but Wake.
func beStopped(t *testing.T, url string) {
	c := NewClient(url, &ClientConfig{HeartbeatInterval: time.Hour, WakeAfter: time.Second})
	room := c.Channel("room:1", nil)
	room.On("news", func(serializer.Payload) { fmt.Fprintln(os.Stdout, "news") })
	c.Connect()
	if _, err := room.Join().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(os.Stdout, "joined")
	off := c.OnState(func(s State) { fmt.Fprintln(os.Stdout, "state", s) })
	room.OnError(func(err error) { fmt.Fprintln(os.Stdout, "state", channel.StateErrored, err) })
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends it
	off()
	if err := c.Close(context.Background()); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(os.Stdout, "closed")
}

// beatListener counts the replies to heartbeats that its connections send.
type beatListener struct {
	net.Listener
	answered atomic.Int32
}

func (l *beatListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &beatConn{c, l}, err
}

type beatConn struct {
	net.Conn
	l *beatListener
}

func (c *beatConn) Write(b []byte) (int, error) {
	c.l.answered.Add(int32(bytes.Count(b, []byte(`"phoenix","phx_reply"`)))) //nolint:gosec // a few
	return c.Conn.Write(b)
}
