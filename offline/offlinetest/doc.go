// Package offlinetest tests implementations of offline.Store.
package offlinetest
