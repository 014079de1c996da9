//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package boltengine

import "os"

// unlock does nothing: closing the file releases its lock.
func unlock(*os.File) {}
