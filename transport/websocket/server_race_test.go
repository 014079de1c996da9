//go:build race

package websocket_test

// The race detector makes stacks larger and allocates more.
const raceEnabled = true
