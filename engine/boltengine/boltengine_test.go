package boltengine_test

import (
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/history/historytest"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m, serve) }

// open opens an engine until the test ends.
func open(t testing.TB, cfg boltengine.Config) *boltengine.Engine {
	t.Helper()
	if cfg.Logger == nil {
		logger := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
		cfg.Logger = &logger
	}
	e, err := boltengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestSuite(t *testing.T) {
	for name, noSync := range map[string]bool{"sync": false, "no sync": true} {
		t.Run(name, func(t *testing.T) {
			historytest.Run(t, func(t *testing.T) historytest.Engine {
				cfg := boltengine.Config{Path: filepath.Join(t.TempDir(), "history.db"), NoSync: noSync}
				e := open(t, cfg)
				return historytest.Engine{
					Log: e.History(),
					Restart: func(t testing.TB) history.Log {
						if err := e.Close(); err != nil {
							t.Fatal(err)
						}
						e = open(t, cfg)
						return e.History()
					},
					Rollback: func(t testing.TB, topic string, n int) {
						if err := e.Rollback(topic, n); err != nil {
							t.Fatal(err)
						}
					},
					Topics: func(t testing.TB) int {
						n, err := e.Topics()
						if err != nil {
							t.Fatal(err)
						}
						return n
					},
					LoseRecords: func(t testing.TB, topic string) {
						if err := e.LoseRecords(topic); err != nil {
							t.Fatal(err)
						}
					},
					Durable: true,
					// There is one process and no connection. Records and topics are written in one
					// transaction. Reading mapped memory cannot be interrupted; TestContextOfAppend
					// freezes the committer.
					Skips: []string{"Node", "Freeze", "Disconnect", "LoseMeta"},
				}
			})
		})
	}
}
