//go:build unix && !linux

package transport

const optNotSentLowat = 0 // not used
