package willtest_test

import (
	"testing"
	"time"

	"bennu.example/internal/testenv/leak"
	"bennu.example/will"
	"bennu.example/will/willtest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// The test of a store calls Run with a function that returns an empty one for every test.
func Example() {
	_ = func(t *testing.T) { // TestMyStore
		willtest.Run(t, willtest.Config{
			New: func(_ *testing.T, keep time.Duration) (a, b will.Store) {
				var database will.Table // of your own
				s := will.NewStore(database, keep)
				return s, s
			},
		})
	}
	// Output:
}
