// Package mutant builds tests with a fault in the source, to show that they notice it.
package mutant

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Change is a fault: another text in a file of the module. The file's name is relative to the root
// of the module. The file must contain the old text once.
type Change struct{ File, Old, New string }

// Build builds the tests of the package in the current directory with one change of a file, as
// Overlay describes it, and returns the program.
func Build(t *testing.T, file, old, changed string) (program string) {
	t.Helper()
	return BuildAll(t, Change{file, old, changed})
}

// BuildAll is Build with several changes. They save builds if they are in parts of the package that
// do not use each other, so that a test notices one of them only.
func BuildAll(t *testing.T, changes ...Change) (program string) {
	t.Helper()
	_, list := Overlay(t, changes...)
	program = filepath.Join(t.TempDir(), "mutant.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", list,
		"-o", program, ".")
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
	root, list := Overlay(t, Change{file, old, changed})
	notice(t, times, func() *exec.Cmd {
		test := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-overlay", list, "-run", run,
			"-timeout", "2m", pkg)
		test.Dir = root
		return test
	})
}

// Run runs tests of a program that Build or BuildAll has built, as Detect does.
func Run(t *testing.T, program, run string, times int) {
	t.Helper()
	notice(t, times, func() *exec.Cmd {
		return exec.CommandContext(t.Context(), program, "-test.run", run, "-test.failfast", "-test.timeout", "2m")
	})
}

// notice runs commands, so many at most, and fails the test unless a test of one of them fails.
func notice(t *testing.T, times int, command func() *exec.Cmd) {
	t.Helper()
	for range times {
		test := command()
		test.Env = append(os.Environ(), "CI=false")
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

// Overlay returns the root of this module and a file for the flag -overlay of the go command, with
// which the source has the changes.
func Overlay(t *testing.T, changes ...Change) (root, list string) {
	t.Helper()
	top, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "bennu.example").Output()
	if err != nil {
		t.Fatal(err)
	}
	root = strings.TrimSpace(string(top))
	dir := t.TempDir()
	replaced := make(map[string]string) // the names of the files, and of those that replace them
	for _, c := range changes {
		path := filepath.Join(root, filepath.FromSlash(c.File))
		mutant, again := replaced[path]
		if !again {
			mutant = filepath.Join(dir, fmt.Sprintf("mutant%d.go", len(replaced)))
			replaced[path] = mutant
		}
		from := path
		if again { // the file has another change
			from = mutant
		}
		source, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), c.Old); n != 1 {
			t.Fatalf("%s has the text %d times, want 1: %q", c.File, n, c.Old)
		}
		if err := os.WriteFile(mutant, []byte(strings.Replace(string(source), c.Old, c.New, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	list = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return root, list
}
