//go:build race

package sim

// Under the race detector a run takes five times as long.
const (
	defaultSeeds = 10
	raceEnabled  = true
)
