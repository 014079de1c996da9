//go:build unix

package websocket_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"bennu.example/transport/websocket"
)

// TestWebSocketServerToStop is not a test: TestWebSocketStopped starts it as the process of its
// server.
func TestWebSocketServerToStop(t *testing.T) {
	if os.Getenv("BENNU_TEST_TO_STOP") == "" {
		return // except in the child process
	}
	s := startWS(t, websocket.Config{IdleTimeout: time.Second}, wsPaths[0])
	os.Stderr.WriteString(s.addr + "\n")
	io.Copy(io.Discard, os.Stdin)
}

// TestWebSocketStopped stops the process of a server for longer than the idle timeout, as a
// suspended machine does. Afterwards its clients must not count as idle, because it could not read
// from them.
func TestWebSocketStopped(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestWebSocketServerToStop$")
	cmd.Env = append(os.Environ(), "BENNU_TEST_TO_STOP=1")
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
	defer cmd.Wait()
	defer in.Close()
	defer cmd.Process.Signal(syscall.SIGCONT)
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	s := &wsServer{t: t, addr: strings.TrimSpace(addr)}
	var peers []*wsPeer
	for range 50 {
		peers = append(peers, handshake(t, s.dial(), "/"))
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // longer than the server's idle timeout
	for _, p := range peers {
		p.send(fin|opPing, "are you there?")
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, p := range peers {
		p.want(fin|opPong, "are you there?")
		p.Close()
	}
}
