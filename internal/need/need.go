// Package need finds the programs that some tests run.
package need

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Program returns the path of the first of the names that is installed, or else ends the test as [Missing] does.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Missing(t, strings.Join(names, " or ")+" is not installed")
	return ""
}

// Missing ends the test because of what is not there: by skipping it, with a line that says so. In CI it fails instead, since
// there a skipped test would look like one that passed.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needed: %s (in CI this fails; elsewhere the test is skipped)", what)
	}
	t.Skipf("needed: %s", what)
}
