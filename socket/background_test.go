package socket

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// TestShutdownWaitsForWork checks that Shutdown waits for goroutines that work for channels which
// have ended, and that none can begin afterwards.
func TestShutdownWaitsForWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := zerolog.Nop()
		h := NewHandler(Config{Logger: &silent})
		s := &session{h: h}
		for range 2 {
			if !s.WorkBegan() {
				t.Fatal("no goroutine may begin")
			}
		}
		s.WorkEnded()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown did not wait: %v", err)
		}
		if s.WorkBegan() {
			t.Error("a goroutine may begin while Shutdown waits for the last ones")
		}
		s.WorkEnded()
		if err := h.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
