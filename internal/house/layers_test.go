package house_test

import (
	"encoding/json"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
)

// layers are the packages from the bottom up. A package imports only packages of lower layers, never one of its own layer. A
// name ending in /... stands for everything below it. A new package gets its line here.
var layers = [][]string{
	{"internal/exactjson"},
	{"serializer", "internal/box", "internal/cputime", "internal/crdt", "internal/loop", "internal/rawws"},
	{"internal/link", "internal/relay", "transport", "push", "pubsub", "socket/token"},
	{"internal/reason"},
	{"channel"},
	{"socket", "presence"},
	{"examples/chat/room"},
	{"examples/...", "internal/bench/...", "internal/conformance/...", "internal/soak/...", "internal/torture/..."},
}

// adapters are modules of their own, each for one engine. An adapter imports its parent, what that may import, and internal/relay, which is
// what adapters have in common.
var adapters = []string{"pubsub/natspubsub", "pubsub/redispubsub"}

// helpers serve tests. No package of the layers imports them outside its tests.
var helpers = []string{
	"internal/chrome", "internal/house", "internal/interop", "internal/leak", "internal/need", "internal/relay/relaytest",
	"pubsub/pubsubtest",
}

func TestLayers(t *testing.T) {
	all := packages(t)
	for _, name := range slices.Concat(slices.Concat(layers...), adapters, helpers) {
		if !slices.ContainsFunc(all, func(p pkg) bool { return matches([]string{name}, p.name()) }) {
			t.Errorf("%s has a place, but there is no such package", name)
		}
	}
	for _, p := range all {
		level, kind := place(p.name())
		if kind == "" {
			t.Errorf("%s is in no layer: give it one in %s", p.name(), "internal/house/layers_test.go")
			continue
		}
		for _, imported := range p.Imports {
			name, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			to, toKind := place(name)
			switch {
			case kind == "helper":
			case toKind == "helper":
				t.Errorf("%s imports %s, which is for tests", p.name(), name)
			case kind == "adapter" && (name == path.Dir(p.name()) || name == "internal/relay"):
			case kind == "layer" && level == len(layers)-1 && within(p.name(), name): // a program's own packages
			case to >= level:
				t.Errorf("%s (layer %d) imports %s (layer %d): arrows only go down", p.name(), level, name, to)
			}
		}
	}
}

// homes are the packages that may import a dependency, so that replacing it touches one place. Programs and helpers are free.
var homes = map[string][]string{
	"github.com/coder/websocket":               {"transport"},
	"github.com/hashicorp/go-msgpack/v2/codec": {"serializer"},
	"net/http/pprof":                           {}, // puts itself on the default mux of whoever links it
	"expvar":                                   {}, // likewise
	"testing":                                  {}, // adds flags to whoever links it; suites for adapters are helpers
}

func TestHomes(t *testing.T) {
	for _, p := range packages(t) {
		if level, kind := place(p.name()); kind == "helper" || level == len(layers)-1 {
			continue
		}
		for _, imported := range p.Imports {
			if home, ok := homes[imported]; ok && !matches(home, p.name()) {
				t.Errorf("%s imports %s; only %v may", p.name(), imported, home)
			}
		}
	}
}

// place tells the layer of a package and its kind: "layer", "adapter", "helper", or "" if it has no place.
func place(name string) (int, string) {
	if matches(helpers, name) {
		return len(layers), "helper"
	}
	if matches(adapters, name) {
		level, _ := place(path.Dir(name))
		return level, "adapter"
	}
	for level, names := range layers {
		if matches(names, name) {
			return level, "layer"
		}
	}
	return 0, ""
}

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if below, ok := strings.CutSuffix(p, "/..."); p == name || ok && (name == below || strings.HasPrefix(name, below+"/")) {
			return true
		}
	}
	return false
}

// within tells whether two packages belong to one program, such as internal/conformance and internal/conformance/app.
func within(a, b string) bool {
	first := func(s string) string {
		parts := strings.SplitN(s, "/", 3)
		return strings.Join(parts[:min(2, len(parts))], "/")
	}
	return first(a) == first(b)
}

// pkg is what go list says of a package.
type pkg struct {
	Dir, ImportPath, Name              string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
	Module                             *struct{ Path string }
}

// name is the package's path below the module: "socket", "internal/box".
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// packages lists the packages of all modules of the workspace.
func packages(t *testing.T) []pkg {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(goCmd(t, "list", "-json=Dir,ImportPath,Name,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports", "work")))
	var all []pkg
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(p.ImportPath, module) {
			all = append(all, p)
		}
	}
}
