// Package follow lets the subscribers of a topic follow its log without a gap.
//
// A [Topic] has a cursor, the position up to which this node has delivered, and a window with the
// newest items before it. A [Reader] is one subscriber's place in the topic. It reads items until
// it has reached the cursor, and goes live: from then on it receives each item when it is
// delivered. A live reader that cannot keep up is parked and reads again.
//
// Package pubsub uses it for recorded broadcasts, and package channel reads. The item type B is
// *pubsub.Broadcast there.
package follow
