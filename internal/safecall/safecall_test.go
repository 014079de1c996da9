package safecall_test

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"bennu.example/internal/safecall"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestDoReturnsTheError(t *testing.T) {
	for _, want := range []error{nil, io.EOF} {
		err := safecall.Do(func() error { return want }, nil)
		if err != want {
			t.Errorf("Do returned %v, want %v", err, want)
		}
	}
}

func TestDoTurnsAPanicIntoAnError(t *testing.T) {
	err := safecall.Do(func() error { panic("at the disco") }, func() { t.Error("exited was called") })
	var p *safecall.PanicError
	if !errors.As(err, &p) || p.Value != "at the disco" || !strings.Contains(string(p.Stack), "safecall_test.go") {
		t.Errorf("Do returned %#v", err)
	}
	if got := err.Error(); got != "panic: at the disco" {
		t.Errorf("its text is %q", got)
	}
}

func TestPanicErrorHidesAnErrorValue(t *testing.T) {
	err := safecall.Do(func() error { panic(io.ErrUnexpectedEOF) }, nil)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v passes for the error that the function panicked with", err)
	}
}

func TestDoReportsGoexit(t *testing.T) {
	exited := make(chan bool, 1)
	done := make(chan bool)
	go func() {
		defer close(done)
		_ = safecall.Do(func() error { runtime.Goexit(); return nil }, func() { exited <- true })
		t.Error("Do returned after Goexit")
	}()
	<-done
	if len(exited) != 1 {
		t.Error("exited was not called")
	}
}
