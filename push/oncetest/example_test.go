package oncetest_test

import (
	"testing"

	"bennu.example/internal/testenv/leak"
	"bennu.example/push"
	"bennu.example/push/oncetest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// The test of a store calls Run with a function that returns an empty one for every test.
func ExampleRun() {
	_ = func(t *testing.T) { // TestMyStore
		oncetest.Run(t, oncetest.Config{New: func(*testing.T) (a, b push.OnceStore) {
			s := push.NewOnceMemory(0) // instead of two nodes' views of your own database
			return s, s
		}})
	}
	// Output:
}

func ExampleConfig() {
	_ = func(t *testing.T) {
		oncetest.Run(t, oncetest.Config{
			New: func(*testing.T) (a, b push.OnceStore) {
				s := push.NewOnceMemory(0)
				return s, s
			},
			Virtual: true, // a store in memory needs no real time
		})
	}
	// Output:
}
