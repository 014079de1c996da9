package room

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/history"
	"bennu.example/internal/testenv/leak"
	"bennu.example/live"
	"bennu.example/pubsub"
)

func TestMain(m *testing.M) { leak.Main(m) }

// chat is a running server.
type chat struct {
	t    *testing.T
	addr string
	stop func() // shuts the server down gracefully and waits for it
}

// start runs a server on an address until stop is called or the test ends.
func start(t *testing.T, addr string) *chat {
	t.Helper()
	return startWith(t, addr, nil)
}

// startWith is start with a PubSub.
func startWith(t *testing.T, addr string, ps *pubsub.PubSub) *chat {
	t.Helper()
	return startAs(t, addr, Config{PubSub: ps})
}

// startAs is start with a configuration. It sets the logger.
func startAs(t *testing.T, addr string, cfg Config) *chat {
	t.Helper()
	cfg.Logger = zerolog.New(t.Output())
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := Serve(ctx, ln, cfg); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}()
	c := &chat{t: t, addr: ln.Addr().String()}
	c.stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(c.stop)
	return c
}

// recorded returns a PubSub that keeps the messages in memory.
func recorded() *pubsub.PubSub {
	return pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), Rules())
}

func TestShutdownAnswersLongPoll(t *testing.T) {
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
	c.stop()
	<-done
	http.DefaultClient.CloseIdleConnections()
	if took := time.Since(begun); took > shutdownTimeout/2 {
		t.Errorf("the shutdown took %v", took)
	}
	// The poll may arrive after the server has stopped accepting requests.
	if status == http.StatusOK && !strings.Contains(body, `"status":`) {
		t.Errorf("the waiting poll received %d %s", status, body)
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
			t.Errorf("URL(%s) is %s, want %s", addr, got, want)
		}
	}
}

// TestContentSecurityPolicy checks that every file is served with the policy and complies with it:
// nothing is inline, and nothing comes from other sites.
func TestContentSecurityPolicy(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	forbidden := []string{
		`https?://[^w]`, `<script>`, `<style`, ` style=`, ` on[a-z]+=`, `innerHTML`, `insertAdjacentHTML`, `document\.write`,
	}
	for _, file := range []string{
		"", "index.html", "style.css", "icon.svg", "chat.js", "view.js",
	} {
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
		data = regexp.MustCompile(`<a href="https://[^"]+">`).ReplaceAll(data, nil) // loads nothing
		for _, pattern := range forbidden {
			if m := regexp.MustCompile(pattern).Find(data); m != nil {
				t.Errorf("/%s contains %q", file, m)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestLivePageIsLocal checks that only browsers of this machine get the live page, by a local name
// and not through a proxy.
func TestLivePageIsLocal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		remote, host, forwarded string
		want                    live.Level
	}{
		{"127.0.0.1:5000", "127.0.0.1:4000", "", live.Operate},
		{"127.0.0.1:5000", "localhost:4000", "", live.Operate},
		{"[::1]:5000", "[::1]:4000", "", live.Operate},
		{"127.0.0.1:5000", "localhost", "", live.Operate},
		{"192.0.2.1:5000", "127.0.0.1:4000", "", live.None},
		{"127.0.0.1:5000", "evil.example:4000", "", live.None},
		{"127.0.0.1:5000", "localhost.evil.example", "", live.None},
		{"127.0.0.1:5000", "127.0.0.1:4000", "192.0.2.1", live.None},
		{"", "", "", live.None},
	} {
		r := httptest.NewRequest(http.MethodGet, "/live/", nil)
		r.RemoteAddr, r.Host = test.remote, test.host
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := levelOf(r); got != test.want {
			t.Errorf("%+v: level %d", test, got)
		}
	}
}

// TestLivePageIsOptional checks that there is a live page only if the flag says so.
func TestLivePageIsOptional(t *testing.T) {
	t.Parallel()
	for on, want := range map[bool]int{true: http.StatusOK, false: http.StatusNotFound} {
		c := startAs(t, "127.0.0.1:0", Config{Live: on})
		res, err := http.Get("http://" + c.addr + "/live/")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("live is %v: status %d", on, res.StatusCode)
		}
		http.DefaultClient.CloseIdleConnections()
		c.stop()
	}
}
