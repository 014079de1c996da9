package history

import (
	"context"
	"errors"
	"time"
)

// Answers of Log.Read and Log.Before about a position that cannot be continued.
var (
	// ErrTrimmed reports that records after the position were removed, because they were too old or
	// too many.
	ErrTrimmed = errors.New("history: records after the position are no longer kept")
	// ErrEpoch reports that the position belongs to a log that was lost, replaced or forgotten.
	ErrEpoch = errors.New("history: the position belongs to another log")
	// ErrAhead reports that the log ends before the position, so that its end was lost.
	ErrAhead = errors.New("history: the log ends before the position")
	// ErrTag reports that the log has another record at the position, so that its end was lost and
	// written again. A position that never named a record has the same answer.
	ErrTag = errors.New("history: the log has another record at the position")
)

// Answers of Log.Append.
var (
	// ErrUnavailable reports that the log does not answer. The record was not stored.
	ErrUnavailable = errors.New("history: the log is unavailable")
	// ErrUncertain reports that the log did not answer in time. The record may have been stored, and
	// is delivered if it was.
	ErrUncertain = errors.New("history: the log did not answer, and may have stored the record")
	// ErrFull reports that too many appends wait for the log, or that it can hold no more.
	ErrFull = errors.New("history: the log has no room for the record")
	// ErrTooLarge reports a record that exceeds Keep.Bytes or another bound of the log.
	ErrTooLarge = errors.New("history: the record is too large")
	// ErrReserved reports a payload with a member whose name begins with "$", which is reserved.
	ErrReserved = errors.New(`history: the payload has a member that begins with "$", which is reserved`)
	// ErrNoRule reports an event that no rule records.
	ErrNoRule = errors.New("history: no rule records the event")
)

// Log stores the records of topics. Package pubsub uses it; programs call the methods of
// pubsub.PubSub. Package historytest contains the suite that every log must pass.
//
// Its methods may be called from any goroutine. Watch, Unwatch and Health do not wait; the others
// return soon after ctx ends. Every log keeps these rules:
//
//   - The offsets of a topic grow. A record is visible only after all records with lower offsets.
//   - Read and Tops find every record whose Append returned nil.
//   - The feed may lose, repeat and swap records, but it invents none.
//   - After ready(nil), each record that is appended later is fed, or Gap is called.
//   - Reading creates nothing, whatever the topic and the position.
//   - Trimming removes only the oldest records. Position and contents of a record never change.
//   - In every doubt Read returns ErrEpoch, ErrTrimmed, ErrAhead or ErrTag.
type Log interface {
	// Append stores r as the newest record of a topic and removes what exceeds k. It returns r with
	// Position, Prev and Time; Prev may be zero if the log does not know it.
	//
	// If r.ID is not empty, and the topic has a record with this ID that is retained and younger than
	// 2 min, Append stores nothing and returns that record.
	Append(ctx context.Context, topic string, r Record, k Keep) (Record, error)

	// Read returns at most max records after a position, oldest first. It decides in this order:
	//
	//  1. The epoch is not the topic's: ErrEpoch.
	//  2. The position is the top: no records.
	//  3. Its offset is higher than the top's: ErrAhead.
	//  4. Its offset is the top's, but the tag differs: ErrTag.
	//  5. No record with a higher offset is retained: ErrTrimmed.
	//  6. The first such record has the position as its Prev: the records from there on.
	//  7. The Prev has a lower offset, or the same with another tag: ErrTag.
	//  8. Otherwise: ErrTrimmed.
	//
	// The position need not be retained itself. The zero Position is ErrPosition.
	Read(ctx context.Context, topic string, after Position, max int) (Batch, error)

	// Before returns the newest max records before a position, oldest first. The zero Position means
	// after the newest record. Its errors are those of Read; ErrTrimmed means that the record at the
	// position is not retained, and so nothing before it.
	Before(ctx context.Context, topic string, before Position, max int) (Batch, error)

	// Tops returns the positions of the newest records of topics. For a topic that never had a record
	// it returns a beginning. The top outlives its record.
	Tops(ctx context.Context, topics []string) ([]Position, error)

	// Watch starts the feed of a topic, and Unwatch ends it. For one topic the calls alternate. The
	// log calls ready(nil) when the feed has begun, once for each Watch and each reconnection, or
	// ready with an error. Watch never calls ready itself.
	Watch(topic string, ready func(error))
	Unwatch(topic string)

	// Run connects to the store, reconnects, and feeds the watched topics, until ctx ends. Then it
	// returns nil, after everything that it started has ended. An error means that retrying cannot
	// help. Run is called at most once.
	Run(ctx context.Context, in Inbox) error

	// Forget removes all records of a topic. Its positions become invalid.
	Forget(ctx context.Context, topic string) error

	// Health returns the state of the log.
	Health() Health
}

// Local is a log that only one process uses. An adapter cannot be combined with it, because each
// node would have its own log.
//
// If Local reports true, the log answers without waiting, and its feed is not used: PubSub delivers
// each record when Append returned it. Watch then need not call ready, and Run is not called.
type Local interface {
	Log
	Local() (instant bool)
}

// Batch is a part of a log.
type Batch struct {
	Records []Record
	After   Position // where Records begin: the Prev of the first
	Top     Position // the newest record of the topic
	More    bool     // there are more records in the direction of reading
}

// Inbox receives what a log feeds. Its functions may be called from any goroutine.
type Inbox struct {
	Record    func(topic string, r Record)
	Forgotten func(topic string) // the topic was forgotten, on any node
	Gap       func(reason error) // records of any watched topic may have been missed
}

// Health is the state of a log.
type Health struct {
	Connected bool      // the log answers
	Since     time.Time // when Connected last changed
	Err       error     // why it is not connected; nil if all is well
	Queued    int       // bytes that wait to be appended
	Appended  uint64    // records that were stored
	Failed    uint64    // appends that failed
	Gaps      uint64    // calls of Inbox.Gap
}
