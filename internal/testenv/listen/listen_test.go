package listen_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/listen"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestAwait(t *testing.T) {
	t.Parallel()
	addr := listen.FreeAddr(t)
	awaited := make(chan struct{})
	go func() {
		defer close(awaited)
		listen.Await(t, addr, time.Minute, nil)
	}()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("FreeAddr returned %s: %v", addr, err)
	}
	defer func() { _ = ln.Close() }()
	<-awaited
}

// failure records the message with which Await fails a test.
type failure struct {
	testing.TB
	message string
}

func (f *failure) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestAwaitFails(t *testing.T) {
	t.Parallel()
	exited := make(chan struct{})
	close(exited)
	for name, c := range map[string]struct {
		timeout time.Duration
		exited  chan struct{}
		message string
	}{
		"timeout": {time.Millisecond, nil, "no process listens"},
		"ended":   {time.Minute, exited, "has ended"},
	} {
		f := &failure{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			listen.Await(f, listen.FreeAddr(t), c.timeout, c.exited)
		}()
		<-done
		if !strings.Contains(f.message, c.message) {
			t.Errorf("%s: failed with %q, want %q", name, f.message, c.message)
		}
	}
}
