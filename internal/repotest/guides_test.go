package repotest_test

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bennu.example/internal/testenv/require"
)

// maxReadme is how many lines the README may have. Reference material belongs in docs/.
const maxReadme = 200

// imports are the packages that a fragment of Go in a guide may use without an import declaration,
// by name.
var imports = map[string]string{
	"bytes": "bytes", "context": "context", "errors": "errors", "expvar": "expvar", "fmt": "fmt", "http": "net/http",
	"httptest": "net/http/httptest", "httputil": "net/http/httputil", "json": "encoding/json", "log": "log",
	"os": "os", "signal": "os/signal", "slices": "slices", "slog": "log/slog", "strings": "strings",
	"sync": "sync", "syscall": "syscall", "synctest": "testing/synctest", "testing": "testing",
	"time": "time", "url": "net/url",
	"zerolog": "github.com/rs/zerolog",
}

// A block is a fenced code block of a Markdown file.
type block struct {
	file    string
	line    int // of its first line of code
	lang    string
	text    string
	prelude string // Go declarations that the fragment relies on, from an HTML comment above it
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

var (
	fence   = regexp.MustCompile("^( *)```(\\w*)$")
	prelude = "<!-- prelude"
)

// blocks returns the fenced code blocks of the README and of the guides. A comment
// "<!-- prelude … -->" declares names that the Go fragments below it use, up to the next such
// comment in the same file.
func blocks(t *testing.T) []block {
	t.Helper()
	var all []block
	for _, file := range guides(t) {
		var open *block
		var before strings.Builder
		inPrelude := false
		for i, line := range strings.Split(string(read(t, filepath.Join(root(t), file))), "\n") {
			m := fence.FindStringSubmatch(line)
			switch {
			case inPrelude && line == "-->":
				inPrelude = false
			case inPrelude:
				before.WriteString(line + "\n")
			case open == nil && line == prelude:
				inPrelude = true
				before.Reset()
			case open == nil && m != nil:
				open = &block{file: file, line: i + 2, lang: m[2], prelude: before.String()}
			case open != nil && m != nil:
				all = append(all, *open)
				open = nil
			case open != nil:
				open.text += line + "\n"
			}
		}
		if open != nil || inPrelude {
			t.Errorf("%s: a code block or a prelude is not closed", file)
		}
	}
	return all
}

// guides returns the README, that of js, and the files below docs, relative to the root.
func guides(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"README.md", "js/README.md"}
	for _, f := range found {
		names = append(names, "docs/"+filepath.Base(f))
	}
	return names
}

// TestGuideGo type-checks every Go block of the README and the guides: whole files as they are,
// fragments together with their prelude.
func TestGuideGo(t *testing.T) {
	t.Parallel()
	paths := maps.Clone(imports)
	for _, p := range packages(t) {
		if p.Name != "main" && len(p.GoFiles) > 0 && !p.internal() {
			paths[p.Name] = p.ImportPath
		}
	}
	lookup := exports(t, slices.Collect(maps.Values(paths)))
	for _, b := range blocks(t) {
		if b.lang == "go" {
			t.Run(b.String(), func(t *testing.T) { checkGo(t, b, paths, lookup) })
		}
	}
}

// exports returns the export data of packages and of all that they import.
func exports(t *testing.T, paths []string) importer.Lookup {
	t.Helper()
	files := map[string]string{}
	out := goCmd(t, append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, paths...)...)
	for line := range strings.Lines(out) {
		if path, file, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			files[path] = file
		}
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
}

// checkGo type-checks one block. A fragment may leave variables and imports unused.
func checkGo(t *testing.T, b block, paths map[string]string, lookup importer.Lookup) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, b.String(), b.text, 0)
	if err != nil {
		file, err = fragment(set, b, paths)
	}
	if err != nil {
		t.Fatalf("it does not parse: %v", err)
	}
	conf := types.Config{Importer: importer.ForCompiler(set, "gc", lookup), Error: func(err error) {
		if !strings.Contains(err.Error(), "and not used") { // declared or imported
			t.Errorf("it does not compile: %v\n%s", err, b.text)
		}
	}}
	_, _ = conf.Check(file.Name.Name, set, []*ast.File{file}, nil) // each error was reported to Error
}

// fragment parses declarations, or statements, that lack a package clause and imports.
func fragment(set *token.FileSet, b block, paths map[string]string) (*ast.File, error) {
	var file *ast.File
	var err error
	for _, body := range []string{b.text, "func _() {\n" + b.text + "\n}\n"} {
		var used strings.Builder
		for name := range selectors(b.prelude + body) {
			if path, ok := paths[name]; ok {
				fmt.Fprintf(&used, "import %s %q\n", name, path)
			}
		}
		file, err = parser.ParseFile(set, b.String(), "package p\n"+used.String()+b.prelude+body, 0)
		if err == nil {
			break
		}
	}
	return file, err
}

var selector = regexp.MustCompile(`\b([a-z][a-z0-9]*)\.[A-Z]`)

// selectors returns the names that stand before an exported selector.
func selectors(text string) map[string]bool {
	names := map[string]bool{}
	for _, m := range selector.FindAllStringSubmatch(text, -1) {
		names[m[1]] = true
	}
	return names
}

// TestGuideJavaScript has Node check the syntax of every JavaScript block.
func TestGuideJavaScript(t *testing.T) {
	t.Parallel()
	node := require.Program(t, "node")
	for _, b := range blocks(t) {
		if b.lang != "js" {
			continue
		}
		file := filepath.Join(t.TempDir(), "block.mjs")
		if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(node, "--check", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", b, err, out)
		}
	}
}

// TestGuideLanguages fails for a block in a language that no test checks.
func TestGuideLanguages(t *testing.T) {
	checked := []string{"go", "js", "sh", "nginx", "caddy", "ini", "dockerfile", "text", "json"}
	for _, b := range blocks(t) {
		if !slices.Contains(checked, b.lang) {
			t.Errorf("%s: a block in %q; the checked languages are %v", b, b.lang, checked)
		}
	}
}

// TestReadmeLength keeps the README short.
func TestReadmeLength(t *testing.T) {
	if n := strings.Count(string(read(t, filepath.Join(root(t), "README.md"))), "\n"); n > maxReadme {
		t.Errorf("README.md has %d lines, more than %d", n, maxReadme)
	}
}
