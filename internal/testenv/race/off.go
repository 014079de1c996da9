//go:build !race

package race

// Enabled says whether the race detector is on.
const Enabled = false

// Seeds returns how many of the seeds of a test to run.
func Seeds(all int) int { return all }
