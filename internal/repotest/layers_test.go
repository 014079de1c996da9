package repotest_test

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// layers lists the packages from the bottom up. A package may only import packages of lower layers.
// A name that ends in /... includes all packages below it. Every new package must be added.
var layers = [][]string{
	{"internal/console"},
	{
		"engine/internal/fields", "internal/exactjson", "internal/fifo", "internal/histcheck", "internal/listeners",
		"internal/prepare", "internal/ratelimit", "internal/safecall", "internal/statewire", "internal/urlparams",
		"internal/willtimes", "js", "key", "logging",
	},
	{
		"serializer", "internal/backlog", "internal/mailbox", "internal/cputime", "internal/crdt", "internal/loop",
		"internal/oncetable", "internal/wstest",
	},
	{"internal/clientlink", "internal/promise", "transport", "history", "socket/token", "stream", "will"},
	{"internal/follow", "internal/streamset", "offline"},
	{"pubsub"},
	{
		"engine/internal/broker", "push",
		"transport/internal/dial", "transport/internal/guard", "transport/internal/outbox",
	},
	{"internal/durable"},
	{"internal/channelhost"},
	{"transport/longpoll", "transport/websocket"},
	{"channel"},
	{"call", "socket", "presence", "state/mirror", "tsgen"},
	{"state", "live", "metrics/prommetrics", "trace/oteltrace"},
	{"engine/internal/objectplan"},
	{"engine/boltengine", "engine/natsengine", "engine/natsengine/embedded", "engine/redisengine"},
	{"examples/chat/room"},
	{
		"cmd/bennu/...", "examples/...", "internal/bench/...", "internal/conformance/...", "internal/soak/...",
		"internal/torture/...",
	},
}

// helpers are packages for tests. Packages in layers may only import them in tests.
var helpers = []string{
	"channeltest", "engine/internal/broker/brokertest", "history/historytest", "internal/fakelog",
	"internal/interop", "internal/repotest", "internal/sim", "internal/statebench", "internal/testenv/chromium",
	"internal/testenv/guide", "internal/testenv/leak", "internal/testenv/listen", "internal/testenv/mutant",
	"internal/testenv/npm", "internal/testenv/output", "internal/testenv/proxy", "internal/testenv/race",
	"internal/testenv/require", "internal/willcheck", "pubsub/pubsubtest", "state/statetest",
	"transport/internal/transporttest",
	"offline/offlinetest", "push/oncetest", "will/willtest",
}

func TestLayers(t *testing.T) {
	all := packages(t)
	for _, name := range slices.Concat(slices.Concat(layers...), helpers) {
		if !slices.ContainsFunc(all, func(p pkg) bool { return matches([]string{name}, p.name()) }) {
			t.Errorf("%s is listed, but does not exist", name)
		}
	}
	for _, p := range all {
		level, kind := place(p.name())
		if kind == "" {
			t.Errorf("%s is in no layer: add it in %s", p.name(), "internal/repotest/layers_test.go")
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
			case kind == "layer" && level == len(layers)-1 && within(p.name(), name): // a program's own packages
			case to >= level:
				t.Errorf("%s (layer %d) imports %s (layer %d): only lower layers may be imported", p.name(), level, name, to)
			}
		}
	}
}

// homes lists the packages that may import a dependency, so that replacing it affects one place.
// Programs and helpers are exempt.
var homes = map[string][]string{
	"github.com/coder/websocket":               {"transport/websocket"},
	"github.com/hashicorp/go-msgpack/v2/codec": {}, // an independent reader for the serializer's tests
	"net/http/pprof":                           {}, // registers handlers on http.DefaultServeMux
	"expvar":                                   {}, // registers a handler on http.DefaultServeMux
	"testing":                                  {}, // adds command-line flags; suites for adapters are helpers
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

// place returns the layer of a package and its kind: "layer", "helper", or "" if it is not listed.
func place(name string) (int, string) {
	if matches(helpers, name) {
		return len(layers), "helper"
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
		below, ok := strings.CutSuffix(p, "/...")
		if p == name || ok && (name == below || strings.HasPrefix(name, below+"/")) {
			return true
		}
	}
	return false
}

// within reports whether two packages belong to the same program, such as internal/conformance and
// internal/conformance/app.
func within(a, b string) bool {
	first := func(s string) string {
		parts := strings.SplitN(s, "/", 3)
		return strings.Join(parts[:min(2, len(parts))], "/")
	}
	return first(a) == first(b)
}

// pkg is a package in the output of go list.
type pkg struct {
	Dir, ImportPath, Name              string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
	Module                             *struct{ Path string }
}

// name returns the package's path within the module: "socket", "internal/mailbox".
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// internal reports whether only packages of this repository can import the package.
func (p pkg) internal() bool { return slices.Contains(strings.Split(p.name(), "/"), "internal") }

// packages returns the packages of all modules of the workspace.
func packages(t *testing.T) []pkg {
	t.Helper()
	fields := "-json=Dir,ImportPath,Name,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports"
	dec := json.NewDecoder(strings.NewReader(goCmd(t, "list", fields, "work")))
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
