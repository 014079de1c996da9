package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bennu.example/examples/typed/poll"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/npm"
	"bennu.example/internal/testenv/require"
	"bennu.example/tsgen"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestTypesAreCurrent fails if a type was changed without go generate.
func TestTypesAreCurrent(t *testing.T) {
	t.Parallel()
	types, module, err := tsgen.Generate(poll.New("").Routes())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"page/channels.d.mts": types, "page/channels.mjs": module} {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not current (%v): run go generate in examples/typed", name, err)
		}
	}
}

// check type-checks a copy of the page.
func check(t *testing.T, page string) (output string, err error) {
	t.Helper()
	tsc := filepath.Join(npm.Modules(t), "node_modules", "typescript", "bin", "tsc")
	out, err := exec.Command(require.Program(t, "node"), tsc, "-p", page, "--pretty", "false").CombinedOutput()
	return string(out), err
}

func TestPageCompiles(t *testing.T) {
	t.Parallel()
	if out, err := check(t, "page"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestChangedTypeIsFound renames members in the Go code, writes the types again, and compiles the
// page, which still has the old names.
func TestChangedTypeIsFound(t *testing.T) {
	t.Parallel()
	npm.Modules(t)
	source, err := os.ReadFile("poll/poll.go")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(`json:"choice"`, `json:"option"`, `json:"text"`, `json:"title"`,
		`map[string]int `+"`json", `[]int `+"`json", `Result{maps.Clone(p.votes)}`, `Result{}`,
		`"maps"`, ``, `= "result"`, `= "results"`).Replace(string(source))
	dir := t.TempDir()
	file := filepath.Join(dir, "poll.go")
	original, err := filepath.Abs("poll/poll.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: file}})
	if err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(dir, "page")
	if err := os.CopyFS(page, os.DirFS("page")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{file: []byte(changed), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gen := exec.Command("go", "run", "-trimpath", "-overlay", filepath.Join(dir, "overlay.json"), "./gen",
		"-o", filepath.Join(page, "channels"))
	if out, err := gen.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := check(t, page)
	t.Logf("the compiler says:\n%s", out)
	if err == nil {
		t.Error("the page still compiles")
	}
	for _, want := range []string{
		`'"result"' is not assignable to parameter of type '"results"'`,      // the event
		`Property 'text' does not exist on type 'Question'`,                  // the reply to the join
		`'choice' does not exist in type 'Vote`,                              // the payload of a push
		`Type 'number[]' is not assignable to type 'Record<string, number>'`, // a member
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the compiler does not say %s", want)
		}
	}
}

// TestPage runs the page's code in Node, with the stock phoenix.js and with socket.mjs.
func TestPage(t *testing.T) {
	t.Parallel()
	node, modules := require.Program(t, "node"), npm.Modules(t)
	handler, err := serve(poll.New("Tea or coffee?", "tea", "coffee"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	url := strings.Replace(server.URL, "http", "ws", 1) + "/socket"
	out, err := exec.CommandContext(ctx, node, "testdata/page_node.mjs", modules, url).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := `["Tea or coffee?",["tea","coffee"],{}]
["You have voted for tea.","You have voted for coffee."]
["You have changed from tea to coffee.","Not accepted: no such choice."]
[{"coffee":2,"tea":0},{"coffee":2,"tea":0}]
`
	if string(out) != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}
