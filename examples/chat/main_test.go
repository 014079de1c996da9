package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/internal/leak"
)

// patience is how long anything may take; it is waited out only when a test fails.
const patience = 30 * time.Second

// asChat makes this test binary the chat itself, so that it can be run with flags and be sent signals.
const asChat = "BENNU_TEST_AS_CHAT"

func TestMain(m *testing.M) {
	if os.Getenv(asChat) != "" {
		main()
		return
	}
	leak.Main(m)
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asChat+"=1")
	return cmd
}

// chat is a running server.
type chat struct {
	t    *testing.T
	addr string
	end  func() // as Ctrl-C does; returns when the server has ended
}

// start runs a server on an address, until the test or its end.
func start(t *testing.T, addr string) *chat {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := serve(ctx, ln, t.Output()); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}()
	c := &chat{t: t, addr: ln.Addr().String()}
	c.end = func() {
		cancel()
		<-ended
	}
	t.Cleanup(c.end)
	return c
}

// openAt reads where the chat is from the first line that it prints.
func openAt(t *testing.T, r *bufio.Reader) (addr string) {
	t.Helper()
	line, err := r.ReadString('\n')
	m := regexp.MustCompile(`^Chat is open at http://(\S+)/ \(Ctrl-C ends it\)\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("the first line is %q (%v)", line, err)
	}
	return m[1]
}

func TestTakenPort(t *testing.T) {
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
	if strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "chat: ") || !strings.Contains(text, ln.Addr().String()) || !strings.Contains(text, "-addr") {
		t.Errorf("it says %q: want one line with the address and what to do", text)
	}
	if stdout.Len() > 0 {
		t.Errorf("it says that it is open: %q", stdout.String())
	}
}

func TestInterruptDrains(t *testing.T) {
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
	c := &chat{t: t, addr: openAt(t, lines)}
	ann := c.join("tea", "ann")
	bob := c.join("tea", "bob")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Skip(err) // Windows has no such signal
	}
	for _, m := range []*wire{ann, bob} {
		if code := m.closed(); code != websocket.StatusServiceRestart {
			t.Errorf("closed with %d, want %d", code, websocket.StatusServiceRestart)
		}
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("it also says %q (%v)", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestDrainAnswersPolls(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	poll := func(token string) (status int, body string) {
		req, err := http.NewRequest(http.MethodGet, "http://"+c.addr+"/socket/longpoll?vsn=2.0.0", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Phoenix-Longpoll-Token", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(data)
	}
	_, opened := poll("")
	token := regexp.MustCompile(`"token":"([^"]+)"`).FindStringSubmatch(opened)
	if token == nil {
		t.Fatalf("no session: %s", opened)
	}
	var status int
	var body string
	done := make(chan struct{})
	go func() {
		defer close(done)
		status, body = poll(token[1])
	}()
	begun := time.Now()
	c.end()
	<-done
	http.DefaultClient.CloseIdleConnections()
	if took := time.Since(begun); took > drainTime/2 {
		t.Errorf("it took %v to end", took)
	}
	// The poll may come too late to be let in.
	if status == http.StatusOK && !strings.Contains(body, `"status":`) {
		t.Errorf("a waiting poll gets %d %s", status, body)
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"127.0.0.1:4000":   "http://127.0.0.1:4000/",
		"0.0.0.0:80":       "http://localhost:80/",
		"[::]:4000":        "http://localhost:4000/",
		"[2001:db8::1]:81": "http://[2001:db8::1]:81/",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := url(a); got != want {
			t.Errorf("%s is opened as %s, want %s", addr, got, want)
		}
	}
}

// TestPageIsStrict holds that the page comes with its policy, and keeps to it: nothing inline, nothing from elsewhere.
func TestPageIsStrict(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	for _, file := range []string{"", "index.html", "style.css", "icon.svg", "chat.js", "presence.js", "socket.js", "transports.js"} {
		resp, err := http.Get("http://" + c.addr + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("/%s: %d, %v", file, resp.StatusCode, err)
		}
		policy := resp.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'self';") || strings.Contains(policy, "unsafe") {
			t.Errorf("/%s: policy %q", file, policy)
		}
		for _, no := range []string{`https?://[^w]`, `<script>`, `<style`, ` style=`, ` on[a-z]+=`, `innerHTML`, `insertAdjacentHTML`, `document\.write`} {
			if m := regexp.MustCompile(no).Find(data); m != nil {
				t.Errorf("/%s has %q", file, m)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
