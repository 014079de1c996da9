//go:build !race

package sim

const (
	defaultSeeds = 30
	raceEnabled  = false
)
