// Package require finds the programs that some tests need.
package require

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Program returns the path of the first of the named programs that is installed. If none is
// installed, it calls [Missing].
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

// Missing skips the test because a prerequisite is missing. If CI is true in the environment, it
// fails the test instead, because a skipped test is easily mistaken for one that passed.
//
// The first such test of a process prints a line that is visible without go test -v.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needed: %s (in CI this fails; elsewhere the test is skipped)", what)
	}
	announce.Do(func() {
		pkg := strings.TrimSuffix(filepath.Base(os.Args[0]), ".test")
		notify(fmt.Sprintf("skip\t%s: some tests were skipped: %s (go test -v lists them)\n", pkg, what))
	})
	t.Skipf("needed: %s", what)
}

var announce sync.Once

// notify writes a line to the standard error of the go command, which is the parent of a test
// process. The go command discards the output of a package that passes. If the parent's standard
// error cannot be opened, the line goes to the terminal, or nowhere. On Linux it can be opened
// unless it is a socket.
func notify(line string) {
	for _, name := range []string{fmt.Sprintf("/proc/%d/fd/2", os.Getppid()), "/dev/tty"} {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			continue
		}
		_, err = f.WriteString(line)
		_ = f.Close()
		if err == nil {
			return
		}
	}
}
