// Package leak fails a package's tests when they leave a goroutine behind.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// grace is how long goroutines that are already on their way out get to end.
const grace = 5 * time.Second

// Main runs the tests of a package and exits: with 1 if they failed or if a goroutine outlived them. Call it from TestMain. A command that starts
// itself anew in a -role gives its main, which then runs instead: the test's own binary is the command.
func Main(m *testing.M, command ...func()) {
	if len(command) > 0 && len(os.Args) > 1 && os.Args[1] == "-role" {
		command[0]()
		return
	}
	code := m.Run()
	if code == 0 {
		if left := wait(grace); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "leak: %d goroutine(s) outlived the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// wait returns the stacks of the goroutines that are still there after d, as soon as there are none.
func wait(d time.Duration) []string {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		left := others()
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

// others lists the stacks of all goroutines but this one and those that the runtime and the testing package keep.
func others() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		if i == 0 || kept(g) {
			continue
		}
		left = append(left, g)
	}
	return left
}

func kept(stack string) bool {
	for _, s := range []string{
		"testing.(*M).", "testing.runFuzzing", "testing.tRunner.func", "os/signal.", "runtime.ensureSigM", "runtime/trace.", "runtime/pprof.",
	} {
		if strings.Contains(stack, s) {
			return true
		}
	}
	return false
}
