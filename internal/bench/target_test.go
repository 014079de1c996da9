//go:build !race && linux

package main

import (
	"slices"
	"testing"
	"time"
)

// maxRounds is enough for the noise of a busy machine: single rounds of the fan-out of one message
// at a time deviate from their median by a quarter.
const maxRounds = 9

// tolerance is how far the median of all rounds may be above the target: on a busy machine it
// deviates by a twentieth from one run to the next, and some targets leave no more than that.
const tolerance = 1.08

// TestTargets checks that Bennu's costs relative to centrifuge's stay within the targets. The costs
// are CPU time and memory, which other load on the machine affects little. If one round exceeds the
// target, the median of up to maxRounds decides, with a tolerance.
func TestTargets(t *testing.T) {
	for _, s := range columns {
		s.Duration = 500 * time.Millisecond
		var ratios []float64
		median := func() float64 {
			sorted := slices.Sorted(slices.Values(ratios))
			return sorted[len(sorted)/2]
		}
		for len(ratios) < maxRounds && (len(ratios)%2 == 0 || median() > s.Target) {
			m := measured{scenario: s, by: make(map[string]result)}
			for _, kind := range kinds {
				r, err := measure(kind, s)
				if err != nil {
					t.Fatalf("%s, %s: %v", s.Name, kind, err)
				}
				if r.Messages == 0 && s.Kind != "idle" {
					t.Fatalf("%s, %s: no messages were delivered", s.Name, kind)
				}
				m.by[kind] = r
			}
			ratios = append(ratios, m.ratio())
		}
		t.Logf("%s: cost ratios to centrifuge: %.2f", s.Name, ratios)
		if got := median(); got > s.Target*tolerance {
			t.Errorf("%s: cost ratio to centrifuge is %.2f, target %.2f with a tolerance of %v",
				s.Name, got, s.Target, tolerance)
		}
	}
}
