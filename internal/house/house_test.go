package house_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bennu.example/internal/leak"
)

const (
	module = "bennu.example"
	// maxNames is how many lines go doc -short may print for a package that users import. One more name needs a reason.
	maxNames = 40
	// maxLines is how long a source file may be: one thing to a file.
	maxLines = 600
)

// requirements are all that the root module may require. What is heavier lives in a module of its own.
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
		if strings.HasPrefix(p.name(), "internal/") || p.Name == "main" || len(p.GoFiles) == 0 {
			continue
		}
		names := strings.Fields(strings.ReplaceAll(strings.TrimSpace(goCmd(t, "doc", "-short", p.ImportPath)), " ", "_"))
		if len(names) > maxNames {
			t.Errorf("%s exports %d names, more than %d:\n%s", p.name(), len(names), maxNames, strings.Join(names, "\n"))
		}
	}
}

// TestGoroutinesAreWatched holds that the tests of every package fail when they leave a goroutine behind.
func TestGoroutinesAreWatched(t *testing.T) {
	for _, p := range packages(t) {
		tests := append(slices.Clone(p.TestGoFiles), p.XTestGoFiles...)
		if len(tests) == 0 || p.name() == "internal/leak" {
			continue
		}
		if !slices.ContainsFunc(tests, func(name string) bool {
			return bytes.Contains(read(t, filepath.Join(p.Dir, name)), []byte("leak.Main("))
		}) {
			t.Errorf(`%s: its tests need func TestMain(m *testing.M) { leak.Main(m) }`, p.name())
		}
	}
}

// TestNoSleepInTests: in testing/synctest time.Sleep costs nothing and hides nothing. Elsewhere it makes tests slow, flaky or both, so it
// needs a reason, in a comment on its line.
func TestNoSleepInTests(t *testing.T) {
	sleep := regexp.MustCompile(`(?m)^.*\btime\.Sleep\([^/\n]*$`)
	for name, text := range files(t) {
		if !strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "internal/house/") || bytes.Contains(text, []byte(`"testing/synctest"`)) {
			continue
		}
		for _, at := range sleep.FindAllIndex(text, -1) {
			t.Errorf("%s:%d sleeps: wait for what you wait for, use testing/synctest, or say why in a comment on that line",
				name, 1+bytes.Count(text[:at[0]], []byte("\n")))
		}
	}
}

func TestFileLength(t *testing.T) {
	for name, text := range files(t) {
		switch filepath.Ext(name) {
		case ".go", ".mjs", ".js", ".sh":
			if n := bytes.Count(text, []byte("\n")); n > maxLines {
				t.Errorf("%s has %d lines, more than %d: is it one thing?", name, n, maxLines)
			}
		}
	}
}

// TestNothingOfThisMachine holds that no file names a package registry or a folder of the machine that it was written on. The
// names are put together here so that this file does not contain them.
func TestNothingOfThisMachine(t *testing.T) {
	forbidden := []string{
		"proxy." + "golang.org", "sum." + "golang.org", "registry." + "npmjs.org", "deb." + "debian.org", "/wor" + "k/main", "/roo" + "t/", "/hom" + "e/",
	}
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 {
		forbidden = append(forbidden, home+"/")
	}
	for name, text := range files(t) {
		for _, f := range forbidden {
			if i := bytes.Index(text, []byte(f)); i >= 0 {
				t.Errorf("%s:%d names %q", name, 1+bytes.Count(text[:i], []byte("\n")), f)
			}
		}
	}
}

// TestLockFile holds that the lock file of npm names versions and hashes, not where they were fetched from.
func TestLockFile(t *testing.T) {
	for name, text := range files(t) {
		if filepath.Base(name) == "package-lock.json" && bytes.Contains(text, []byte(`"resolved"`)) {
			t.Errorf(`%s records "resolved" addresses: install with omit-lockfile-registry-resolved`, name)
		}
	}
}

// files returns the repository's text files by their names, as git has them or would have them.
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
		if err != nil || bytes.IndexByte(text, 0) >= 0 { // deleted, or not text
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

// goCmd is what the go command prints, run in the repository's root.
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
