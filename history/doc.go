// Package history keeps the recent events of topics, so that a client that was away for a moment
// can receive exactly what it missed.
//
// A [Log] has one ordered, bounded sequence of [Record] values for each topic. A [Position] names
// one record, and a reader continues after it. [Log].Read proves that nothing between the position
// and the first record that it returns is missing. Where it cannot prove that, it returns an error
// that says why.
//
// [Rules] select the topics and events to record, and what is kept of them. [NewMemory] returns a
// log in the memory of one process:
//
//	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{
//		"room:*": {Events: []string{"new_msg"}},
//	})
//
// A history is a bounded buffer. It does not replace the application's database.
package history
