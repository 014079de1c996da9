// Package mutant builds tests with faults in the source, to show that they notice each of them.
//
// One program has all faults of a test, because a build takes longer than most tests do. Each
// function with faults is there in every form, and an environment variable selects the fault.
package mutant

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Change is a fault: another text in a file of the module. The file's name is relative to the root
// of the module. The file must contain the old text once. The change must be in a function.
type Change struct{ File, Old, New string }

// variable selects the fault. Its value is the number of a change, from 1.
const variable = "BENNU_FAULT"

// Program is the test program of a package, with faults.
type Program struct{ file, dir string }

// Build builds the tests of a package with faults. The package is relative to the root of the
// module.
func Build(t *testing.T, pkg string, changes ...Change) *Program {
	t.Helper()
	top, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "bennu.example").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, temp := strings.TrimSpace(string(top)), t.TempDir()
	byFile := make(map[string][]edit)
	for i, c := range changes {
		byFile[c.File] = append(byFile[c.File], edit{i + 1, c.Old, c.New})
	}
	replaced := make(map[string]string) // the names of the files, and of those that replace them
	for name, edits := range byFile {
		path := filepath.Join(root, filepath.FromSlash(name))
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		mutated, err := withFaults(string(source), edits)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		replaced[path] = filepath.Join(temp, fmt.Sprintf("mutant%d.go", len(replaced)))
		if err := os.WriteFile(replaced[path], []byte(mutated), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(temp, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &Program{filepath.Join(temp, "mutant.test"), filepath.Join(root, filepath.FromSlash(pkg))}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", list,
		"-o", p.file, ".")
	build.Dir = p.dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

// Command returns a run of the tests with the change of that index, counted from 0.
func (p *Program) Command(ctx context.Context, index int, args ...string) *exec.Cmd {
	run := exec.CommandContext(ctx, p.file, args...)
	run.Dir = p.dir
	run.Env = append(os.Environ(), "CI=false", fmt.Sprintf("%s=%d", variable, index+1))
	return run
}

// Detect runs tests with the change of that index, and fails the test unless one of them fails.
// tests is the value of the flag -run. It runs them so many times at most, since whether goroutines
// meet may be chance.
func (p *Program) Detect(t *testing.T, index int, tests string, times int) {
	t.Helper()
	for range times {
		run := p.Command(t.Context(), index, "-test.run", tests, "-test.failfast", "-test.timeout", "2m")
		out, err := run.CombinedOutput()
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
