package output_test

import (
	"fmt"
	"strings"
	"testing"

	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/output"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestAwait(t *testing.T) {
	r := output.New(func(s string) string { return strings.ReplaceAll(s, "secret", "…") })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 100 {
			_, _ = fmt.Fprintln(r, "secret", i)
		}
	}()
	r.Await(t, "… 99\n")
	<-done
	if n := strings.Count(r.String(), "\n"); n != 100 {
		t.Errorf("%d lines", n)
	}
}
