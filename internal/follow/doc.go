// Package follow lets the subscribers of a topic follow its log without a gap.
//
// A [Topic] has a cursor, the position up to which this node has delivered, and a window with the
// newest items before it. A [Reader] is one subscriber's place in the topic. It reads items until
// it has reached the cursor, and goes live: from then on it receives each item when it is
// delivered. A live reader that cannot keep up is parked and reads again.
//
// [Topics] is the set of topics in use. Append adds a record to the log and delivers it. If the log
// is not instant, Run delivers what the log feeds, also the records of other nodes. A record is
// delivered only if it follows the cursor: what is missing is read from the log first, and if that
// is impossible, the subscribers are notified that the log was lost. From time to time the newest
// position of the log is compared with the cursor, so that a loss is noticed even if nothing is
// fed.
//
// Package pubsub uses it for recorded broadcasts, and package channel reads. The item type B is
// *pubsub.Broadcast there.
package follow
