// Package fakelog contains a [history.Log] that several nodes share, in the memory of one process.
// Tests switch its faults on and off.
//
// All that it decides by chance comes from a seed. It waits by timers only, so that it can be used
// in a testing/synctest bubble.
package fakelog
