//go:build !race

// The commands and programs of these tests are built without the race detector in any case.

package repotest_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bennu.example/internal/testenv/listen"
	"bennu.example/internal/testenv/require"
)

// tested are the commands of the README and the guides, each with the test that runs it. A command
// that is too long for a test of this package names the place that runs it.
var tested = map[string]string{
	"go run ./examples/chat":               "TestGuideExamples",
	"go run ./examples/bot -user ann":      "TestGuideExamples",
	"go run ./examples/board":              "TestGuideExamples",
	"go run ./examples/cluster":            "examples/cluster: TestMain runs the program",
	"go test work":                         ".ci/run: step tests",
	"go run ./internal/torture":            "internal/torture: its test runs every attack",
	"go run ./internal/soak -duration 10m": "internal/soak: its test runs a shorter one",
	"go run ./internal/bench -growth":      "internal/bench: its test runs the measurements",
	"go test ./presence -run '^$' -bench Crowd -benchtime 1x -crowd 3000": "presence: TestCrowd runs a smaller one",
	"go install ./cmd/bennu":    "cmd/bennu: its tests build it",
	genTypes:                    "cmd/bennu: TestGenTS",
	"make bench":                "internal/bench: its test runs the measurements",
	"bash .ci/run":              "it is what runs the tests",
	"NIGHTLY=true bash .ci/run": "it is what runs the tests",
	"go mod init chat.example":  "TestGuideInstall",
	"go mod edit -replace bennu.example=" + clone:                                          "TestGuideInstall",
	"go mod edit -replace bennu.example/engine/natsengine=" + clone + "/engine/natsengine": "TestGuideInstall",
	"go mod tidy": "TestGuideInstall",
	renaming:      "TestGuideRename",

	"go run ./internal/bench -sessions 1000000": "internal/bench: TestSessions opens fewer",
}

const (
	clone    = "/path/to/the/clone"
	genTypes = `bennu gen ts ./examples/typed/poll 'poll.New("").Routes()' -o examples/typed/page/channels`
	renaming = `git grep -lz 'bennu\.example' | xargs -0 perl -pi -e 's#bennu\.example#github.com/you/bennu#g'`
)

// testedPrograms are programs whose tests run every documented command with them, by what such a
// command contains.
var testedPrograms = map[string]string{
	"go run ./cmd/bennu ": "cmd/bennu: TestGuide",
}

// TestGuideCommands fails for a documented command that no test runs.
func TestGuideCommands(t *testing.T) {
	for _, b := range blocks(t) {
		if b.lang != "sh" {
			continue
		}
		for line := range strings.Lines(b.text) {
			line = strings.TrimSpace(line)
			runs := func(program string) bool { return strings.Contains(line, program) }
			if line != "" && tested[line] == "" && !slices.ContainsFunc(slices.Collect(maps.Keys(testedPrograms)), runs) {
				t.Errorf("%s: no test runs the command %q", b, line)
			}
		}
	}
}

// maxWait bounds the wait for the output of a documented command.
const maxWait = 2 * time.Minute

// start runs a program of the repository until the test ends. It returns what the program prints.
func start(t *testing.T, dir string, env []string, name string, args ...string) *bufio.Reader {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	in, err := cmd.StdinPipe() // stays open until the test ends: the bot ends with its input
	if err != nil {
		t.Fatal(err)
	}
	out, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait(); _ = w.Close() }()
	t.Cleanup(func() {
		go func() { _, _ = io.Copy(io.Discard, out) }()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = in.Close()
		select {
		case <-done:
		case <-time.After(maxWait):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	return bufio.NewReader(out)
}

// await reads lines until one contains text.
func await(t *testing.T, out *bufio.Reader, text string) string {
	t.Helper()
	found := make(chan string, 1)
	go func() {
		defer close(found)
		var all strings.Builder
		for {
			line, err := out.ReadString('\n')
			all.WriteString(line)
			if strings.Contains(line, text) {
				found <- line
				return
			}
			if err != nil {
				t.Errorf("the output ended before %q:\n%s", text, all.String())
				return
			}
		}
	}()
	select {
	case line, ok := <-found:
		if !ok {
			t.FailNow()
		}
		return line
	case <-time.After(maxWait):
		t.Fatalf("not printed within %v: %q", maxWait, text)
		return ""
	}
}

// build compiles a package of the root module and returns the program's path.
func build(t *testing.T, dir, pkg string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-o", bin, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return bin
}

// TestGuideExamples runs the chat, the bot and the board as the README says, at another address.
func TestGuideExamples(t *testing.T) {
	t.Parallel()
	chat := start(t, root(t), nil, build(t, root(t), "./examples/chat"), "-addr", "127.0.0.1:0")
	line := await(t, chat, "http://")
	_, addr, _ := strings.Cut(line, "http://")
	addr, _, _ = strings.Cut(addr, "/")
	bot := build(t, root(t), "./examples/bot")
	ann := start(t, root(t), nil, bot, "-url", "ws://"+addr+"/socket", "-user", "ann")
	await(t, ann, "ann")
	bob := exec.Command(bot, "-url", "ws://"+addr+"/socket", "-user", "bob")
	bob.Stdin = strings.NewReader("good morning\n")
	if out, err := bob.CombinedOutput(); err != nil {
		t.Fatalf("the bot: %v\n%s", err, out)
	}
	await(t, ann, "good morning")

	board := start(t, root(t), nil, build(t, root(t), "./examples/board"), "-addr", "127.0.0.1:0")
	await(t, board, "Board is open at http://")
	await(t, board, "Moderators open  http://")
}

// TestReadmePrograms builds the README's server and client and lets them talk.
func TestReadmePrograms(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"README.md", "docs/getting-started.md"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			addr := listen.FreeAddr(t)
			var server, client string
			for _, b := range blocks(t) {
				if b.file != file || b.lang != "go" || !strings.Contains(b.text, "package main") {
					continue
				}
				text := strings.NewReplacer(`":4000"`, fmt.Sprintf("%q", addr), "localhost:4000", addr).Replace(b.text)
				bin := buildText(t, text)
				if strings.Contains(text, "socket.Dial(") {
					client = bin
				} else {
					server = bin
				}
			}
			if server == "" || client == "" {
				t.Fatal("no program is a server, or none a client")
			}
			start(t, t.TempDir(), nil, server)
			listen.Await(t, addr, maxWait, nil)
			await(t, start(t, t.TempDir(), nil, client), "hello")
		})
	}
}

// buildText compiles a program as if it were a package of the root module.
func buildText(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(root(t), "internal", "guideprogram"+filepath.Base(t.TempDir()))
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	config := fmt.Sprintf(`{"Replace": {%q: %q}}`, filepath.Join(dir, "main.go"), file)
	if err := os.WriteFile(overlay, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", bin, "./internal/"+filepath.Base(dir))
	cmd.Dir = root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("it does not build: %v\n%s", err, out)
	}
	return bin
}

// TestGuideInstall uses the modules from a clone as the guides describe, and builds a program with
// them.
func TestGuideInstall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := `package main

import (
	"bennu.example/pubsub"
	"bennu.example/engine/natsengine"
)

func main() {
	engine, err := natsengine.New(natsengine.Config{})
	if err == nil {
		pubsub.New(engine.Adapter())
	}
}
`
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("mod", "init", "chat.example"); err != nil {
		t.Fatal(err, out)
	}
	for command, by := range tested {
		if args, ok := strings.CutPrefix(command, "go mod edit"); ok && by == "TestGuideInstall" {
			args = strings.ReplaceAll(args, clone, root(t))
			if out, err := run(append([]string{"mod", "edit"}, strings.Fields(args)...)...); err != nil {
				t.Fatal(command, err, out)
			}
		}
	}
	if out, err := run("mod", "tidy"); err != nil {
		if strings.Contains(out, "dial tcp") || strings.Contains(out, "disabled by GOPROXY=off") {
			require.Missing(t, "a network: go mod tidy reads the modules' own requirements")
		}
		t.Fatal(err, out)
	}
	if out, err := run("build", "-o", filepath.Join(dir, "program"), "."); err != nil {
		t.Fatal(err, out)
	}
}

// TestGuideRename gives a clone another module path, as the guide says.
func TestGuideRename(t *testing.T) {
	t.Parallel()
	require.Program(t, "perl")
	dir := filepath.Join(t.TempDir(), "clone")
	for name, text := range files(t) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := "git init -q . && git add -A && " + renaming + " && ! git grep -q 'bennu[.]example' && go list ./... "
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "github.com/you/bennu/socket\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
