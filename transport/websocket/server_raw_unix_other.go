//go:build unix && !linux

package websocket

// optNotSentLowat is zero where the option is not used.
const optNotSentLowat = 0
