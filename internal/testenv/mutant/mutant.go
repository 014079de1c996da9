// Package mutant builds tests with a fault in the source, to show that they notice it.
package mutant

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Build builds the tests of the package in the current directory with one change of a file, as
// Overlay describes it, and returns the program.
func Build(t *testing.T, file, old, changed string) (program string) {
	t.Helper()
	_, list := Overlay(t, file, old, changed)
	program = filepath.Join(t.TempDir(), "mutant.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", list, "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// Detect runs tests of a package with one change of a file, as Overlay describes it. The package is
// relative to the root, and run is the value of the flag -run. It fails the test unless one of them
// fails. It runs them so many times at most, since whether goroutines meet may be chance.
func Detect(t *testing.T, pkg, run string, times int, file, old, changed string) {
	t.Helper()
	root, list := Overlay(t, file, old, changed)
	for range times {
		test := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-overlay", list, "-run", run,
			"-timeout", "2m", pkg)
		test.Dir, test.Env = root, append(os.Environ(), "CI=false")
		out, err := test.CombinedOutput()
		if err == nil {
			continue
		}
		if !strings.Contains(string(out), "--- FAIL: ") {
			t.Errorf("the tests failed in another way: %v\n%s", err, out)
		}
		return
	}
	t.Error("no test noticed it")
}

// Overlay returns the root of this module and a file for the flag -overlay of the go command. With
// it, another text replaces the old one in a file of the module, whose name is relative to the
// root. The file must contain the old text once.
func Overlay(t *testing.T, file, old, changed string) (root, list string) {
	t.Helper()
	top, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "bennu.example").Output()
	if err != nil {
		t.Fatal(err)
	}
	root = strings.TrimSpace(string(top))
	path := filepath.Join(root, filepath.FromSlash(file))
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), old); n != 1 {
		t.Fatalf("%s has the text %d times, want 1: %q", file, n, old)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(source), old, changed, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	list = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return root, list
}
