//go:build !unix

package main

// maxFiles returns how many connections are tried where no limit is known.
func maxFiles() int { return 16_000 }
