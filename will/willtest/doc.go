// Package willtest tests implementations of will.Store.
package willtest
