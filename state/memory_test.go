package state_test

import (
	"testing"

	"bennu.example/state"
	"bennu.example/state/statetest"
)

func TestMemorySuite(t *testing.T) {
	t.Parallel()
	statetest.Run(t, func(*testing.T) statetest.Engine {
		return statetest.Engine{
			Store: state.NewMemory(state.MemoryConfig{MaxObjects: 1000}), MaxObjects: 1000,
			Skips: []string{"Node", "Restart", "Rollback", "Freeze"},
		}
	})
}
