// Package repotest tests the rules of this repository that linters cannot check: which packages may
// import which, how many names a package may export, what the module may require, how long files
// may be, and how comments are written. Each failure says what to do.
package repotest
