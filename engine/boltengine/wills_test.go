package boltengine_test

import (
	"path/filepath"
	"testing"
	"time"

	"bennu.example/engine/boltengine"
	"bennu.example/will"
	"bennu.example/will/willtest"
)

func TestWills(t *testing.T) {
	var e *boltengine.Engine
	var cfg boltengine.Config
	willtest.Run(t, willtest.Config{
		New: func(t *testing.T, keep time.Duration) (a, b will.Store) {
			isRestart := t.Name() == "TestWills/a_restart"
			cfg = boltengine.Config{Path: filepath.Join(t.TempDir(), "history.db"), NoSync: !isRestart}
			e = open(t, cfg)
			s, err := e.WillsFor(keep)
			if err != nil {
				t.Fatal(err)
			}
			return s, s
		},
		Reopen: func(t *testing.T) will.Store {
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = open(t, cfg)
			return e.Wills()
		},
		Local: true,
		Unit:  50 * time.Millisecond,
	})
}

// TestWillsAfterClose checks that nothing is stored any more, and that the memory does not change.
func TestWillsAfterClose(t *testing.T) {
	t.Parallel()
	e := open(t, boltengine.Config{Path: filepath.Join(t.TempDir(), "history.db")})
	store := e.Wills()
	c := will.Connection{ID: "1", ClientID: "client"}
	w := will.Will{ID: "will", Topic: "room", Event: "gone", Connection: c, Node: "n"}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), w); err == nil {
		t.Error("Put did not fail after Close")
	}
	if got, err := store.Claim(t.Context(), 1, time.Hour); len(got) > 0 || err != nil {
		t.Errorf("%d wills, %v", len(got), err)
	}
}
