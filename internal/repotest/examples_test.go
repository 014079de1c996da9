package repotest_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unexampled lists the exported types and functions that need no example, with the reason. Names
// that are documented as internal are exempt without being listed (see isInternal).
var unexampled = map[string]string{
	"longpoll.Stats":        "a part of socket.Stats, which documents its fields",
	"longpoll.Peers":        "implemented by package socket",
	"longpoll.StatusError":  "created by package socket from the error of Config.Connect",
	"transport.ClientConn":  "the result of websocket.Dial and longpoll.Dial, whose examples use it",
	"websocket.Stats":       "a part of socket.Stats, which documents its fields",
	"presence.ClientConfig": "overrides two names and the logger",
}

// TestExamples checks that every exported type and function of a package that users import has an
// example: one that is named after it (ExampleCall, ExampleClient_Push), which go doc displays with
// it, or one that uses it.
func TestExamples(t *testing.T) {
	left := maps.Clone(unexampled)
	for _, p := range packages(t) {
		if p.Name == "main" || p.internal() || strings.HasPrefix(p.name(), "examples/") || len(p.GoFiles) == 0 {
			continue
		}
		shown := exampled(t, p)
		for name, also := range exported(t, p) {
			full := p.Name + "." + name
			has := slices.ContainsFunc(append(also, name), func(s string) bool { return shown[s] })
			switch _, excused := left[full]; {
			case has: // an entry with an example stays in left and is reported
			case excused:
				delete(left, full)
			default:
				t.Errorf("%s has no example: add func Example%s, or one of a method of it, "+
					"to %s/example_test.go; or give a reason in %s",
					full, name, p.name(), "internal/repotest/examples_test.go")
			}
		}
	}
	for name := range left {
		t.Errorf("%s is in unexampled, but has an example, or is not exported any more", name)
	}
}

// exported returns the functions and types that a package exports to users. For each type it also
// returns its constants, variables and constructors, which stand for the type in an example.
func exported(t *testing.T, p pkg) map[string][]string {
	t.Helper()
	d := docOf(t, p)
	names := map[string][]string{}
	for _, f := range d.Funcs {
		if !isInternal(f.Doc) {
			names[f.Name] = nil
		}
	}
	for _, typ := range d.Types {
		if isInternal(typ.Doc) {
			continue
		}
		var values []string
		for _, v := range slices.Concat(typ.Consts, typ.Vars) {
			values = append(values, v.Names...)
		}
		for _, f := range typ.Funcs {
			if !isInternal(f.Doc) {
				names[f.Name] = nil
				values = append(values, f.Name)
			}
		}
		names[typ.Name] = values
	}
	return names
}

// isInternal reports whether a doc comment says that the name is for other packages of this module.
func isInternal(doc string) bool {
	doc = strings.ToLower(strings.Join(strings.Fields(doc), " "))
	return strings.Contains(doc, "not covered by the compatibility promise") || strings.Contains(doc, "for package ")
}

// exampled returns the names of a package that its examples are named after or use.
func exampled(t *testing.T, p pkg) map[string]bool {
	t.Helper()
	shown := map[string]bool{}
	set := token.NewFileSet()
	for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		if !strings.HasPrefix(name, "example") {
			continue
		}
		file := parse(t, set, filepath.Join(p.Dir, name))
		for _, e := range doc.Examples(file) {
			of, _, _ := strings.Cut(e.Name, "_")
			shown[of] = true
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == p.Name {
					shown[s.Sel.Name] = true
				}
			}
			return true
		})
	}
	return shown
}

func parse(t *testing.T, set *token.FileSet, name string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
