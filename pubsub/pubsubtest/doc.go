// Package pubsubtest has the suite that every adapter of package pubsub passes, and a cluster in memory to test with.
package pubsubtest
