package channeltest_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeTB is a testing.TB that records failures.
type fakeTB struct {
	testing.TB // other methods panic

	mu       sync.Mutex
	failures []string
	cleanups []func()
	log      strings.Builder
}

func (f *fakeTB) Helper() {}

func (f *fakeTB) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, fmt.Sprintf(format, args...))
}

func (f *fakeTB) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

func (f *fakeTB) Fatal(args ...any) { f.Fatalf("%s", fmt.Sprint(args...)) }

func (f *fakeTB) Cleanup(g func()) { f.cleanups = append(f.cleanups, g) }

func (f *fakeTB) Context() context.Context { return context.Background() }

func (f *fakeTB) Output() io.Writer { return f }

func (f *fakeTB) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

// fails runs a test, and returns its failures.
func fails(test func(t testing.TB)) []string {
	f := new(fakeTB)
	do := func(g func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			g()
		}()
		<-done
	}
	do(func() { test(f) })
	for _, g := range slices.Backward(f.cleanups) {
		do(g)
	}
	return f.failures
}

// run runs the test of an example, and prints its result.
func run(test func(t testing.TB)) {
	failures := fails(test)
	for _, text := range failures {
		fmt.Println("FAIL", text) //nolint:forbidigo // the output of an example
	}
	if len(failures) == 0 {
		fmt.Println("PASS") //nolint:forbidigo // the output of an example
	}
}
