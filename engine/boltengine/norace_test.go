//go:build !race

package boltengine_test

// underRace reports that the race detector is on.
const underRace = false
