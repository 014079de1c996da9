// Package house holds the rules of this repository that no linter knows, as tests: which package may import which, how many names
// one may export, what the module requires, how long a file may be. Each failure says what to do.
package house
