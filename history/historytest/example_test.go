package historytest_test

import (
	"testing"

	"bennu.example/history"
	"bennu.example/history/historytest"
)

// The test of a log calls Run with a function that returns a new store for every test.
func Example() {
	_ = func(t *testing.T) { // TestMyLog
		historytest.Run(t, func(t *testing.T) historytest.Engine {
			return historytest.Engine{
				Log:     history.NewMemory(history.MemoryConfig{}),
				Restart: func(testing.TB) history.Log { return history.NewMemory(history.MemoryConfig{}) },
				Skips:   []string{"Rollback", "Topics", "Node", "Freeze", "Disconnect", "LoseRecords", "LoseMeta"},
			}
		})
	}
	// Output:
}
