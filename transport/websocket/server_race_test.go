//go:build race

package websocket_test

// Under the race detector stacks are larger and more is allocated.
const raceEnabled = true
