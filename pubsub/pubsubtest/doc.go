// Package pubsubtest contains the test suite that every adapter of package pubsub must pass, and a
// cluster in memory for tests of programs.
//
// The test of an adapter calls [Run], with an [Engine] that can be stopped and started. The test of
// a program on several nodes creates a [Cluster], and a [Node] of it for each PubSub. It runs each
// PubSub with [Start], which also ends it.
package pubsubtest
