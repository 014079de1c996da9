//go:build race

package stream_test

const (
	isRace    = true
	schedules = 10_000
)
