//go:build !race

package key_test

import (
	"testing"

	"bennu.example/key"
)

// TestAllocations is not run under the race detector, with which the pools of crypto/rand drop
// items at random.
func TestAllocations(t *testing.T) {
	var g key.Generator
	if n := testing.AllocsPerRun(100, func() { _ = g.New() }); n > 1 {
		t.Errorf("New allocates %v times", n)
	}
	k := g.New()
	if n := testing.AllocsPerRun(100, func() { _, _ = key.Time(k) }); n > 0 {
		t.Errorf("Time allocates %v times", n)
	}
}
