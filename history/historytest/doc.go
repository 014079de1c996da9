// Package historytest contains the test suite that every history.Log must pass.
//
// The test of a log calls [Run] with an [Engine], which makes logs on one store and changes the
// store as faults do.
package historytest
