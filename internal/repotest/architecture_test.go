package repotest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	architecture = "ARCHITECTURE.md"
	// maxArchitecture is the number of lines that ARCHITECTURE.md may have.
	maxArchitecture = 200
)

var (
	placeName = regexp.MustCompile("`([A-Za-z0-9_./-]+\\.go):([A-Za-z0-9_]+)`")
	testRuns  = regexp.MustCompile(`go test \./([a-z/]+) -run ([A-Z]\w+)`)
)

// TestArchitecture checks that every `file:function` in ARCHITECTURE.md exists, that the tests it
// names exist, and that it is short.
func TestArchitecture(t *testing.T) {
	t.Parallel()
	all := files(t)
	text := string(all[architecture])
	places, runs := placeName.FindAllStringSubmatch(text, -1), testRuns.FindAllStringSubmatch(text, -1)
	if len(places) < 50 || len(runs) < 5 {
		t.Errorf("it names %d functions and %d tests: the patterns are wrong", len(places), len(runs))
	}
	for _, m := range places {
		if source, ok := all[m[1]]; !ok || !slices.Contains(functions(t, m[1], source), m[2]) {
			t.Errorf("%s names %s:%s, which does not exist", architecture, m[1], m[2])
		}
	}
	for _, m := range runs {
		found := false
		for name, source := range all {
			if filepath.ToSlash(filepath.Dir(name)) == m[1] && strings.HasSuffix(name, "_test.go") {
				found = found || slices.Contains(functions(t, name, source), m[2])
			}
		}
		if !found {
			t.Errorf("%s names %s in %s, which does not exist", architecture, m[2], m[1])
		}
	}
	if n := strings.Count(text, "\n"); n > maxArchitecture {
		t.Errorf("%s has %d lines, more than %d", architecture, n, maxArchitecture)
	}
}

// functions returns the names of the functions and methods that a file declares.
func functions(t *testing.T, name string, source []byte) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			names = append(names, f.Name.Name)
		}
	}
	return names
}

// oldPlan matches references to the plans from which this project was built, and to the numbered
// lines of their checklists in comments. They are not part of the repository.
var oldPlan = regexp.MustCompile(`\b(?:architecture|(?:client|presence|wire)\.md) \d|//[^"\n]*\b[A-L]\d{2,3}\b`)

// TestNoReferencesToPlans checks that the repository explains itself.
func TestNoReferencesToPlans(t *testing.T) {
	t.Parallel()
	for name, text := range files(t) {
		switch filepath.Ext(name) {
		case ".go", ".md", ".mjs", ".js":
		default:
			continue
		}
		if m := oldPlan.Find(text); m != nil && name != "internal/repotest/architecture_test.go" {
			t.Errorf("%s refers to a plan outside of the repository, or to a line of its checklist: %q", name, m)
		}
	}
}
