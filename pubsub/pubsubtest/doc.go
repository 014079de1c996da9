// Package pubsubtest has the suite that every adapter of package pubsub passes, and a cluster in memory to test with.
//
// Who writes an adapter calls [Run] in its test, with an [Engine] that can be stopped and started. Who tests a program on several nodes makes a
// [Cluster], a [Node] of it for each PubSub, and runs these by [Start], which also ends them.
package pubsubtest
