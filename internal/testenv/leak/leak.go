// Package leak fails the tests of a package if goroutines remain when they are done.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// grace is how long Main waits for goroutines that are about to exit.
const grace = 5 * time.Second

// Main runs the tests of a package and exits. The exit code is 1 if the tests failed or if
// goroutines remain. Call it from TestMain.
//
// A command that starts itself as a child process with -role passes its main function, which then
// runs instead of the tests: the test binary serves as the command.
func Main(m *testing.M, command ...func()) {
	if len(command) > 0 && len(os.Args) > 1 && os.Args[1] == "-role" {
		command[0]()
		return
	}
	code := m.Run()
	if code == 0 {
		if left := wait(grace); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "leak: %d goroutine(s) remain after the tests:\n\n%s\n",
				len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// wait waits until no other goroutines remain, for at most d, and returns the stacks of those that
// do.
func wait(d time.Duration) []string {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		left := others()
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

// others returns the stacks of all goroutines except this one and those of the runtime and the
// testing package.
func others() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		if i == 0 || isSystem(g) {
			continue
		}
		left = append(left, g)
	}
	return left
}

func isSystem(stack string) bool {
	for _, s := range []string{
		"testing.(*M).", "testing.runFuzzing", "testing.tRunner.func",
		"os/signal.", "runtime.ensureSigM", "runtime/trace.", "runtime/pprof.",
	} {
		if strings.Contains(stack, s) {
			return true
		}
	}
	return false
}
