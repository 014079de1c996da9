//go:build !race

package channel_test

const floodJoins = 100_000
