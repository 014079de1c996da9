// Package histcheck decides whether a recorded run of a topic with history kept the guarantees of
// recovery: nothing is lost, repeated or reordered unannounced.
//
// A test records what its senders and clients did and saw in a [Recorder], in real time, and asks
// for the verdict when everything is at rest. The package knows positions only as text, and shares
// no code with the packages that it judges.
package histcheck
