package will_test

import (
	"testing"
	"time"

	"bennu.example/internal/testenv/leak"
	"bennu.example/will"
	"bennu.example/will/willtest"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestMemory(t *testing.T) {
	willtest.Run(t, willtest.Config{
		Unit: 40 * time.Millisecond,
		New: func(_ *testing.T, keep time.Duration) (a, b will.Store) {
			s := will.NewMemoryFor(keep)
			return s, s
		},
	})
}
