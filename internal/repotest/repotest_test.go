package repotest_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"go/ast"
	"go/doc"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bennu.example/internal/testenv/leak"
)

const (
	module = "bennu.example"
	// maxNames is how many lines go doc -short may print for a package that users import. moreNames
	// are exceptions. Raise them only with a reason.
	maxNames = 40
	// maxLines is the maximum length of a source file. A longer file should be split.
	maxLines = 600
)

// moreNames are the budgets of packages that users import most and that have two ends each.
var moreNames = map[string]int{"channel": 42, "socket": 48}

// maxMethods are the budgets of the exported methods of a package's types and interfaces. Packages
// that are not listed have defaultMethods. The budgets have room for what is planned: calls,
// streams, progress and history in channel, and authentication and offline data in socket.
var maxMethods = map[string]int{
	"channel": 62, "socket": 66, "presence": 40, "pubsub": 35, "transport": 32,
	"history":      36, // the interface of a log, and of the one in memory
	"state":        40, // the same of a store
	"channeltest":  40, // what a test expects of a server, a client, a channel, a push and a network
	"state/mirror": 60, // of the mirrors of each kind of object: five, with about ten each
}

const defaultMethods = 24

// requirements are the only modules that the root module may require. Packages with further
// dependencies belong in their own modules.
var requirements = []string{
	"github.com/coder/websocket",
	"github.com/google/uuid",
	"github.com/hashicorp/go-msgpack/v2",
	"github.com/rs/zerolog",
}

func TestMain(m *testing.M) { leak.Main(m) }

func TestRequirements(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace []any
	}
	if err := json.Unmarshal([]byte(goCmd(t, "mod", "edit", "-json")), &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	slices.Sort(direct)
	if !slices.Equal(direct, requirements) {
		t.Errorf("go.mod requires %v; it must be exactly %v", direct, requirements)
	}
	if len(mod.Replace) > 0 {
		t.Error("go.mod has replace directives, which a user's build ignores")
	}
}

func TestNameBudget(t *testing.T) {
	for _, p := range packages(t) {
		if p.internal() || p.Name == "main" || len(p.GoFiles) == 0 {
			continue
		}
		names := strings.Fields(strings.ReplaceAll(strings.TrimSpace(goCmd(t, "doc", "-short", p.ImportPath)), " ", "_"))
		if most := cmp.Or(moreNames[p.name()], maxNames); len(names) > most {
			t.Errorf("%s exports %d names, more than %d:\n%s", p.name(), len(names), most, strings.Join(names, "\n"))
		}
	}
}

func TestMethodBudget(t *testing.T) {
	for _, p := range packages(t) {
		if p.internal() || p.Name == "main" || len(p.GoFiles) == 0 {
			continue
		}
		names := methods(t, p)
		if most := cmp.Or(maxMethods[p.name()], defaultMethods); len(names) > most {
			t.Errorf("%s exports %d methods, more than %d:\n%s", p.name(), len(names), most, strings.Join(names, "\n"))
		}
	}
}

// docOf returns the documentation of a package.
func docOf(t *testing.T, p pkg) *doc.Package {
	t.Helper()
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		files = append(files, parse(t, set, filepath.Join(p.Dir, name)))
	}
	d, err := doc.NewFromFiles(set, files, p.ImportPath)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// methods returns the exported methods of the exported types of a package, including those of
// interfaces.
func methods(t *testing.T, p pkg) (names []string) {
	t.Helper()
	d := docOf(t, p)
	for _, typ := range d.Types {
		for _, m := range typ.Methods {
			names = append(names, typ.Name+"."+m.Name)
		}
		for _, spec := range typ.Decl.Specs {
			i, isInterface := spec.(*ast.TypeSpec).Type.(*ast.InterfaceType)
			if !isInterface {
				continue
			}
			for _, f := range i.Methods.List {
				for _, name := range f.Names {
					if name.IsExported() {
						names = append(names, typ.Name+"."+name.Name)
					}
				}
			}
		}
	}
	return names
}

// TestGoroutinesAreWatched checks that every package's tests use leak.Main, which fails them if
// goroutines remain.
func TestGoroutinesAreWatched(t *testing.T) {
	for _, p := range packages(t) {
		tests := append(slices.Clone(p.TestGoFiles), p.XTestGoFiles...)
		if len(tests) == 0 || p.name() == "internal/testenv/leak" {
			continue
		}
		if !slices.ContainsFunc(tests, func(name string) bool {
			return bytes.Contains(read(t, filepath.Join(p.Dir, name)), []byte("leak.Main("))
		}) {
			t.Errorf(`%s: its tests need func TestMain(m *testing.M) { leak.Main(m) }`, p.name())
		}
	}
}

// TestFileSizes checks that no large file, such as a compiled program, is committed.
func TestFileSizes(t *testing.T) {
	t.Parallel()
	const maxSize = 512 << 10
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("not a git checkout: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if f, err := os.Stat(filepath.Join(cmd.Dir, name)); err == nil && f.Size() > maxSize {
			t.Errorf("%s has %d kB, more than %d", name, f.Size()>>10, maxSize>>10)
		}
	}
}

// TestNoSleepInTests forbids time.Sleep in tests outside of testing/synctest, because it makes them
// slow or flaky. A comment on the line can give a reason for an exception.
func TestNoSleepInTests(t *testing.T) {
	sleep := regexp.MustCompile(`(?m)^.*\btime\.Sleep\([^/\n]*$`)
	for name, text := range files(t) {
		if !strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "internal/repotest/") {
			continue
		}
		if bytes.Contains(text, []byte(`"testing/synctest"`)) {
			continue
		}
		for _, at := range sleep.FindAllIndex(text, -1) {
			t.Errorf("%s:%d sleeps: wait for the event, use testing/synctest, or give the reason in a comment on that line",
				name, 1+bytes.Count(text[:at[0]], []byte("\n")))
		}
	}
}

func TestFileLength(t *testing.T) {
	for name, text := range files(t) {
		switch filepath.Ext(name) {
		case ".go", ".mjs", ".js", ".sh":
			if n := bytes.Count(text, []byte("\n")); n > maxLines {
				t.Errorf("%s has %d lines, more than %d: split it", name, n, maxLines)
			}
		}
	}
}

// TestNothingOfThisMachine checks that no file contains the name of a package registry or a
// directory of the machine on which it was written. The names are concatenated here so that this
// file does not contain them.
func TestNothingOfThisMachine(t *testing.T) {
	forbidden := []string{
		"proxy." + "golang.org", "sum." + "golang.org", "registry." + "npmjs.org", "deb." + "debian.org",
		"/wor" + "k/main", "/roo" + "t/", "/hom" + "e/",
	}
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 {
		forbidden = append(forbidden, home+"/")
	}
	for name, text := range files(t) {
		for _, f := range forbidden {
			if i := bytes.Index(text, []byte(f)); i >= 0 {
				t.Errorf("%s:%d contains %q", name, 1+bytes.Count(text[:i], []byte("\n")), f)
			}
		}
	}
}

// TestLockFile checks that the npm lock file contains versions and hashes, but no download
// addresses.
func TestLockFile(t *testing.T) {
	for name, text := range files(t) {
		if filepath.Base(name) == "package-lock.json" && bytes.Contains(text, []byte(`"resolved"`)) {
			t.Errorf(`%s records "resolved" addresses: install with omit-lockfile-registry-resolved`, name)
		}
	}
}

// files returns the contents of the repository's text files by name, including untracked files that
// are not ignored.
func files(t *testing.T) map[string][]byte {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("not a git checkout: %v", err)
	}
	all := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(cmd.Dir, name))
		if err != nil || bytes.IndexByte(text, 0) >= 0 { // deleted or binary
			continue
		}
		all[name] = text
	}
	return all
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// goCmd returns the output of the go command, run in the repository's root.
func goCmd(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root(t)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
