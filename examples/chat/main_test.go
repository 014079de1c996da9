package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/internal/testenv/leak"
)

// maxWait bounds every wait. It only expires when a test fails.
const maxWait = 30 * time.Second

// asChat is the environment variable that makes this test binary run the chat, so that tests can
// pass flags and send signals to it.
const asChat = "BENNU_TEST_AS_CHAT"

func TestMain(m *testing.M) {
	if os.Getenv(asChat) != "" {
		main()
		return
	}
	leak.Main(m)
}

// program returns a command that runs the chat.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asChat+"=1")
	return cmd
}

// readAddr reads the server's address from the first line of its output.
func readAddr(t *testing.T, r *bufio.Reader) (addr string) {
	t.Helper()
	line, err := r.ReadString('\n')
	m := regexp.MustCompile(`^Chat is open at http://(\S+)/ \(Ctrl-C ends it\)\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("the first line is %q (%v)", line, err)
	}
	return m[1]
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := program(t, "-addr", ln.Addr().String())
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	text := stderr.String()
	if strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "chat: ") ||
		!strings.Contains(text, ln.Addr().String()) || !strings.Contains(text, "-addr") {
		t.Errorf("standard error is %q, want one line with the address and the flag -addr", text)
	}
	if stdout.Len() > 0 {
		t.Errorf("standard output is %q, want nothing", stdout.String())
	}
}

func TestInterruptClosesClientsWithRestart(t *testing.T) {
	t.Parallel()
	cmd := program(t, "-addr", "127.0.0.1:0")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	url := "ws://" + readAddr(t, lines) + "/socket/websocket?vsn=2.0.0"
	join := []byte(`["1","1","room:tea","phx_join",{"user":"ann"}]`)
	var clients []*websocket.Conn
	for range 2 {
		c, _, err := websocket.Dial(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if err := c.Write(t.Context(), websocket.MessageText, join); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Skip(err) // Windows has no such signal
	}
	for _, c := range clients {
		var err error
		for err == nil {
			_, _, err = c.Read(t.Context())
		}
		if code := websocket.CloseStatus(err); code != websocket.StatusServiceRestart {
			t.Errorf("closed with %d (%v), want %d", code, err, websocket.StatusServiceRestart)
		}
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("unexpected output %q (%v)", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the chat exited with %v", err)
	}
}
