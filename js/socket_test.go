package js_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"bennu.example/internal/testenv/require"
)

// TestSocketDeclarations checks that socket.d.mts declares the classes of socket.mjs with methods
// that they have. internal/interop tests what the methods do.
func TestSocketDeclarations(t *testing.T) {
	t.Parallel()
	const program = `
		const members = (c) => [...Object.getOwnPropertyNames(c), ...Object.getOwnPropertyNames(c.prototype ?? {})];
		const module = await import("./socket.mjs");
		console.log(JSON.stringify(Object.fromEntries(Object.entries(module).map(([name, c]) => [name, members(c)]))))`
	out, err := exec.Command(require.Program(t, "node"), "--input-type=module", "-e", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var exported map[string][]string
	if err := json.Unmarshal(out, &exported); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("socket.d.mts")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?ms)^export (?:class|const) (\w+)(.*?\n}|.*?;$)`).FindAllSubmatch(text, -1) {
		name := string(m[1])
		declared[name] = true
		for _, method := range regexp.MustCompile(`(?m)^  (?:static )?(\w+)(?:<T>)?\(`).FindAllSubmatch(m[2], -1) {
			if !slices.Contains(exported[name], string(method[1])) {
				t.Errorf("%s.%s is declared, but does not exist", name, method[1])
			}
		}
	}
	for name := range exported {
		if !declared[name] {
			t.Errorf("%s is exported, but not declared", name)
		}
	}
	if len(declared) != len(exported) || len(exported) == 0 {
		t.Errorf("declared are %v", declared)
	}
}
