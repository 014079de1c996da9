package house_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README's whole programs build, and are as long as it says.
func TestReadmePrograms(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]int{"// Command server": 40, "socket.Dial(": 25}
	overlay := map[string]map[string]string{"Replace": {}}
	var args []string
	for i, m := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		program := m[1]
		if !strings.Contains(program, "package main") {
			continue
		}
		for what, lines := range limits {
			if strings.Contains(program, what) {
				delete(limits, what)
				if n := strings.Count(program, "\n"); n > lines {
					t.Errorf("the program with %q has %d lines, more than %d", what, n, lines)
				}
			}
		}
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := fmt.Sprintf("internal/house/readme%d", i)
		overlay["Replace"][filepath.Join(root(t), dir, "main.go")] = file
		args = append(args, "./"+dir)
	}
	for what := range limits {
		t.Errorf("the README has no program with %q", what)
	}
	raw, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(config, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append([]string{"build", "-overlay", config, "-o", t.TempDir() + string(filepath.Separator)}, args...)...)
	cmd.Dir = root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the README's programs do not build: %v\n%s", err, out)
	}
}
