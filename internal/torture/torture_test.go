package main

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m, main) }

// TestAttacks runs each attack for a second. The bounds are wider than the command's, because of
// the race detector and of other tests that run at the same time.
func TestAttacks(t *testing.T) {
	server, err := startTarget(bounds{750 * time.Millisecond, 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer server.stop()
	defer http.DefaultClient.CloseIdleConnections()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			r, err := server.attack(a, time.Second)
			for tries := 1; errors.Is(err, errIdle) && tries < 3; tries++ { // the machine may be busy with other tests
				r, err = server.attack(a, time.Second)
			}
			t.Log(r)
			if err != nil {
				t.Error(err)
			}
		})
	}
}
