// Package offline defines what a Go client keeps while it has no connection, also over restarts of
// its program: the pushes that were not answered yet, and the last known values of topics. It keeps
// them in a [Store].
//
// [NewMemory] returns a store whose contents end with the process. OpenClient of
// engine/boltengine opens one in a file. Package offlinetest is the suite for other stores.
package offline
