// Package prepare lets package channel compute a value once for each broadcast, instead of once for
// each subscriber. It connects the packages channel and pubsub without adding to what users see of
// them. B is *pubsub.Broadcast.
package prepare

// A Preparer computes a value from a broadcast.
type Preparer[B any] interface {
	// Prepare is called once on each node for every broadcast on a topic that has a subscriber with
	// this Preparer, before the broadcast is delivered. It runs on the broadcaster's goroutine and
	// under no lock, and concurrently with itself. The broadcaster receives its error; the broadcast
	// is delivered in any case.
	Prepare(b B) (value any, err error)
}

// A Subscriber is a pubsub.Subscriber that receives prepared broadcasts.
type Subscriber[B any] interface {
	// Preparer is called once for each subscription. Preparers that are equal by == share one call
	// of Prepare; one that is not comparable is called for each of its subscriptions. Nil means that
	// nothing is prepared.
	Preparer() Preparer[B]

	// DeliverPrepared is called instead of Deliver if Preparer returned a Preparer. The value is nil
	// if Prepare failed, or if the subscription was made while the broadcast was being prepared.
	DeliverPrepared(b B, value any) error
}
