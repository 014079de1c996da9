//go:build !race

package stream_test

const (
	isRace    = false
	schedules = 100_000
)
