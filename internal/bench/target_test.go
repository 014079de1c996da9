//go:build !race && linux

package main

import (
	"slices"
	"testing"
	"time"
)

// What Bennu costs stays within what it is to be of centrifuge's costs. The figures are CPU time and memory, which other work on the machine
// changes little; where one round finds more than may be, the median of several decides.
func TestTargets(t *testing.T) {
	for _, s := range columns {
		s.Duration = 500 * time.Millisecond
		var ratios []float64
		median := func() float64 {
			sorted := slices.Sorted(slices.Values(ratios))
			return sorted[len(sorted)/2]
		}
		for len(ratios) < 5 && (len(ratios)%2 == 0 || median() > s.Target) {
			m := measured{scenario: s, by: make(map[string]result)}
			for _, kind := range kinds {
				r, err := measure(kind, s)
				if err != nil {
					t.Fatalf("%s, %s: %v", s.Name, kind, err)
				}
				if r.Messages == 0 && s.Kind != "idle" {
					t.Fatalf("%s, %s: nothing was delivered", s.Name, kind)
				}
				m.by[kind] = r
			}
			ratios = append(ratios, m.ratio())
		}
		t.Logf("%s: %.2f of centrifuge's", s.Name, ratios)
		if got := median(); got > s.Target {
			t.Errorf("%s: %.2f of centrifuge's costs, may be %.2f", s.Name, got, s.Target)
		}
	}
}
