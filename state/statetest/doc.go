// Package statetest is the test suite of state.Store. Every store must pass it.
package statetest
