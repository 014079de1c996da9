// Package output records what a program prints, so that tests can wait for it.
package output

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long Await waits.
const patience = time.Minute

// Recorder is an io.Writer that keeps what is written. One goroutine at a time may call Await. The
// other methods may be called from any goroutine.
type Recorder struct {
	clean   func(string) string
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{} // has an element if something was written since Await looked
}

// New returns a Recorder. String passes the text through clean, which removes what is different
// each time. Nil means that the text stays as it is.
func New(clean func(string) string) *Recorder {
	return &Recorder{clean: clean, written: make(chan struct{}, 1)}
}

// Write is part of io.Writer.
func (r *Recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case r.written <- struct{}{}:
	default:
	}
	return r.text.Write(p)
}

// String returns what was written so far.
func (r *Recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.text.String()
	if r.clean != nil {
		text = r.clean(text)
	}
	return text
}

// Await waits until what was written contains text.
func (r *Recorder) Await(t testing.TB, text string) {
	t.Helper()
	for late := time.After(patience); !strings.Contains(r.String(), text); {
		select {
		case <-r.written:
		case <-late:
			t.Fatalf("no %q in:\n%s", text, r)
		}
	}
}
