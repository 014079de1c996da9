package main

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m, main) }

// TestAttacks runs each attack for a moment; the command runs them for as long as one likes.
func TestAttacks(t *testing.T) {
	v, err := startVictim(bounds{750 * time.Millisecond, 256 << 20}) // the race detector's share, and that of the tests beside this one
	if err != nil {
		t.Fatal(err)
	}
	defer v.stop()
	defer http.DefaultClient.CloseIdleConnections()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			r, err := v.endure(a, time.Second)
			for tries := 1; errors.Is(err, errIdle) && tries < 3; tries++ { // the machine may be busy with other tests
				r, err = v.endure(a, time.Second)
			}
			t.Log(r)
			if err != nil {
				t.Error(err)
			}
		})
	}
}
