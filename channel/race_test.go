//go:build race

package channel_test

// Under the race detector a join takes twenty times as long.
const floodJoins = 10_000
