package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

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

// parallel is how many suites run at the same time. They wait for timers and reconnects most of the
// time, so it is more than the two of a machine with two processors.
const parallel = "3"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", parallel); err != nil { // -parallel replaces it
		panic(err)
	}
	leak.Main(m)
}

func TestNode(t *testing.T) {
	t.Parallel()
	each(t, "scenarios", runNode)
}

// TestCloseCodes checks what the versions of phoenix.js do after close codes of the server.
func TestCloseCodes(t *testing.T) {
	t.Parallel()
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
}

// TestAuth runs the code of docs/authentication.md with tokens that expire.
func TestAuth(t *testing.T) {
	t.Parallel()
	each(t, "auth", runNode)
}

func TestPresenceNode(t *testing.T) {
	t.Parallel()
	each(t, "presence", runNode)
}

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
