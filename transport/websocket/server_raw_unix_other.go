//go:build unix && !linux

package websocket

const optNotSentLowat = 0 // not used
