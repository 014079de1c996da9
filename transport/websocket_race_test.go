//go:build race

package transport_test

// Under the race detector stacks are larger and more is allocated.
const raceEnabled = true
