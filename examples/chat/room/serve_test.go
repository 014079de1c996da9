package room

import (
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/testenv/leak"
)

// patience is how long anything may take; it is waited out only when a test fails.
const patience = 30 * time.Second

func TestMain(m *testing.M) { leak.Main(m) }

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
		if err := Serve(ctx, ln, Config{Logger: zerolog.New(t.Output())}); err != nil {
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
		if got := URL(a); got != want {
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
