// Package oncetest tests implementations of push.OnceStore.
package oncetest
