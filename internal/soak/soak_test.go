package main

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m, main) }

// TestSoak is a short run of the command.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("soak takes too long for -short")
	}
	d := 15 * time.Second
	if s := os.Getenv("BENNU_SOAK"); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := soak(d, rand.Uint64(), t.Logf); err != nil {
		t.Fatal(err)
	}
}
