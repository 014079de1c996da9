//go:build race

package race

// Enabled says whether the race detector is on.
const Enabled = true

// Seeds returns how many of the seeds of a test to run: a quarter. A seed takes several times as
// long as without the race detector, which looks for accesses that most seeds have in common. All
// seeds run without it.
func Seeds(all int) int { return max(1, all/4) }
