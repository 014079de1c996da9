package state_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/history"
	"bennu.example/state"
	"bennu.example/state/statetest"
)

// TestMemoryForgetsDeletions has deletions that are forgotten because of their age.
func TestMemoryForgetsDeletions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := state.NewMemory(state.MemoryConfig{})
		apply := func(op state.Op) history.Position {
			t.Helper()
			a, err := m.Apply(t.Context(), "o", []state.Op{op}, state.Tx{})
			if err != nil {
				t.Fatal(err)
			}
			return a.Position
		}
		put := func(key string) history.Position { return apply(state.Op{Key: key, Value: []byte(`1`)}) }
		put("a")
		put("b")
		before := put("c")
		first := apply(state.Op{Key: "a", Delete: true})
		time.Sleep(time.Minute) // in virtual time
		second := apply(state.Op{Key: "b", Delete: true})
		since := func(p history.Position, want int) {
			t.Helper()
			page, err := m.Changes(t.Context(), "o", p, state.Range{}, 100)
			if want < 0 && !errors.Is(err, history.ErrTrimmed) || want >= 0 && (err != nil || len(page.Items) != want) {
				t.Errorf("since %s: %d changes, %v, want %d", p, len(page.Items), err, want)
			}
		}
		time.Sleep(time.Hour - time.Minute - 1) // in virtual time
		put("c")
		since(before, 3)
		time.Sleep(2 * time.Nanosecond) // in virtual time
		put("c")
		since(before, -1)
		since(first, 2)
		since(second, 1)
		time.Sleep(time.Minute) // in virtual time
		put("c")
		since(first, -1)
		since(second, 1)
	})
}

func TestMemorySuite(t *testing.T) {
	t.Parallel()
	statetest.Run(t, func(*testing.T) statetest.Engine {
		return statetest.Engine{
			Store: state.NewMemory(state.MemoryConfig{MaxObjects: 1000}), MaxObjects: 1000,
			Skips: []string{"Node", "Restart", "Rollback", "Freeze"},
		}
	})
}
