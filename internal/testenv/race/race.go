// Package race tells tests whether they run under the race detector, in which they are slower.
package race
