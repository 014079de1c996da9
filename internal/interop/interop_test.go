package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/testenv/chromium"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/npm"
	"bennu.example/internal/testenv/require"
)

// scenario selects scenarios by name, as -run selects tests.
var scenario = flag.String("scenario", "", "run only scenarios that match this JavaScript regular expression")

// nightly makes the scenarios of tokens as long as they are in practice.
var nightly = os.Getenv("NIGHTLY") == "true"

// limit bounds the duration of one suite, which normally takes a quarter of it.
var limit = map[bool]time.Duration{false: 3 * time.Minute, true: 6 * time.Minute}[nightly]

func TestMain(m *testing.M) { leak.Main(m) }

func TestNode(t *testing.T)     { each(t, "scenarios", runNode) }
func TestChromium(t *testing.T) { each(t, "scenarios", runChromium) }

// TestCloseCodes checks what the versions of phoenix.js do after close codes of the server.
func TestCloseCodes(t *testing.T) {
	for _, phoenix := range []string{"phoenix", "phoenix-1.8.12"} {
		t.Run(phoenix, func(t *testing.T) {
			t.Parallel()
			runVersion(t, "close", "websocket", phoenix)
		})
	}
}

// TestAdvice runs the code of docs/connections.md against a server that shuts down.
func TestAdvice(t *testing.T) {
	t.Parallel()
	t.Run("node", func(t *testing.T) { t.Parallel(); each(t, "advice", runNode) })
	t.Run("node, phoenix 1.8.12", func(t *testing.T) {
		t.Parallel()
		runVersion(t, "advice", "websocket", "phoenix-1.8.12")
	})
	t.Run("chromium", func(t *testing.T) { t.Parallel(); each(t, "advice", runChromium) })
}

// TestAuth runs the code of docs/authentication.md with tokens that expire.
func TestAuth(t *testing.T) {
	t.Parallel()
	t.Run("node", func(t *testing.T) { t.Parallel(); each(t, "auth", runNode) })
	t.Run("chromium", func(t *testing.T) { t.Parallel(); each(t, "auth", runChromium) })
}

func TestPresenceNode(t *testing.T)     { each(t, "presence", runNode) }
func TestPresenceChromium(t *testing.T) { each(t, "presence", runChromium) }

// each runs a suite over both transports in parallel.
func each(t *testing.T, suite string, run func(t *testing.T, suite, transport string)) {
	for _, transport := range []string{"websocket", "longpoll"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			run(t, suite, transport)
		})
	}
}

func runNode(t *testing.T, suite, transport string) { runVersion(t, suite, transport, "phoenix") }

// runVersion runs a suite in Node, with phoenix.js from the npm package of that name.
func runVersion(t *testing.T, suite, transport, phoenix string) {
	t.Helper()
	dir := npm.Modules(t)
	c := newControl(t)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, require.Program(t, "node"), "client/node.mjs", dir, c.url, transport, suite, phoenix,
		*scenario)
	cmd.WaitDelay = time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var r report
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		r.line(t, lines.Text())
	}
	_, _ = io.Copy(io.Discard, stdout)
	if err := cmd.Wait(); err != nil {
		t.Errorf("node: %v\n%s", err, stderr.String())
	} else if stderr.Len() > 0 {
		t.Logf("node: %s", stderr.String())
	}
	r.check(t)
}

func runChromium(t *testing.T, suite, transport string) {
	c := newControl(t)
	runPage(t, chromium.Start(t), c, suite, transport, "/phoenix.mjs")
}

// runPage runs a suite in a tab, with the client at a path of the control server.
func runPage(t *testing.T, b *chromium.Browser, c *control, suite, transport, client string) {
	t.Helper()
	lines := make(chan string, 1024)
	end := make(chan struct{})
	defer close(end)
	query := url.Values{"client": {client}, "suite": {suite}, "transport": {transport}, "match": {*scenario}}
	b.Open(c.url+"/client/page.html?"+query.Encode(), func(line string) {
		select {
		case lines <- line:
		case <-end:
		}
	})
	var r report
	late := time.After(limit)
	for !r.ended {
		select {
		case line := <-lines:
			r.line(t, line)
		case <-late:
			t.Errorf("chromium: not done after %v", limit)
			r.ended = true
		}
	}
	r.check(t)
}

// report is the output of a script: the scenarios it planned to run, and their results.
type report struct {
	plan    []string
	results map[string]result
	ended   bool
}

type result struct {
	Plan  []string `json:"plan"`
	Name  string   `json:"name"`
	OK    bool     `json:"ok"`
	MS    int      `json:"ms"`
	Error string   `json:"error"`
	End   bool     `json:"end"`
}

func (r *report) line(t *testing.T, line string) {
	var v result
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Logf("output: %s", line)
		return
	}
	switch {
	case v.Plan != nil:
		r.plan = v.Plan
	case v.Name != "":
		if r.results == nil {
			r.results = map[string]result{}
		}
		r.results[v.Name] = v
	case v.End:
		r.ended = true
		if v.Error != "" {
			t.Errorf("the script ended with %s", v.Error)
		}
	}
}

// check runs a subtest for each planned scenario.
func (r *report) check(t *testing.T) {
	t.Helper()
	if len(r.plan) == 0 {
		t.Fatal("no scenario ran")
	}
	for _, name := range r.plan {
		t.Run(name, func(t *testing.T) {
			v, ok := r.results[name]
			switch {
			case !ok:
				t.Fatal("the scenario did not complete")
			case !v.OK:
				t.Fatalf("after %d ms: %s", v.MS, v.Error)
			}
			t.Logf("%d ms", v.MS)
		})
	}
}
