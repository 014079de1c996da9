package offlinetest_test

import (
	"testing"

	"bennu.example/offline"
	"bennu.example/offline/offlinetest"
)

// The test of a store calls Run with a function that returns another store for every test.
func Example() {
	_ = func(t *testing.T) { // TestMyStore
		offlinetest.Run(t, offlinetest.Config{
			Memory: true,
			New: func(*testing.T) func() (offline.Store, error) {
				return func() (offline.Store, error) { return offline.NewMemory(), nil }
			},
		})
	}
	// Output:
}
