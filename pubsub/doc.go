// Package pubsub brings a broadcast to every subscriber of a topic, in this process and the others.
package pubsub
