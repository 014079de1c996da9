package statetest_test

import (
	"testing"

	"bennu.example/state"
	"bennu.example/state/statetest"
)

// The test of a store calls Run with a function that returns a new store for every test.
func Example() {
	_ = func(t *testing.T) { // TestMyStore
		statetest.Run(t, func(*testing.T) statetest.Engine {
			return statetest.Engine{
				Store: state.NewMemory(state.MemoryConfig{}),
				Skips: []string{"Node", "Restart", "Rollback", "Freeze"},
			}
		})
	}
	// Output:
}
