package offline

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"bennu.example/history"
	"bennu.example/serializer"
)

var (
	// ErrStore reports that a store does not work: it is closed, its file is damaged, or the disk is
	// full or fails.
	ErrStore = errors.New("offline: the store does not work")
	// ErrInvalid reports operations that no store accepts: see Check.
	ErrInvalid = errors.New("offline: invalid operation")
	// ErrExpired reports a push that was not sent because it had become too old.
	ErrExpired = errors.New("offline: the push has expired")
)

// A Store keeps the entries and mirrors of identities, one of which is that of the user who is
// logged in. An identity does not see the data of another one.
//
// One process uses a store. Its methods may be called from any goroutine. They return an error that
// wraps ErrStore if the store does not work, and ctx's error if that has ended. Package offlinetest
// tests implementations.
type Store interface {
	// Apply applies all operations in their order, or none of them. It returns nil when they are
	// durable, which for a store in memory is at once. Calls that wait at the same time may share one
	// commit, for which the store gathers them for at most 5 ms.
	//
	// It returns an error that wraps ErrInvalid for operations that Check rejects. ctx bounds the wait
	// for the turn; after that Apply waits for the commit. After an error nothing is applied, except
	// that a disk which fails at the very end of a commit may have stored everything.
	//
	// Apply does not keep ops, nor what they point to.
	Apply(ctx context.Context, identity string, ops []Op) error

	// Load calls each with what an identity has at one moment, so that it sees all of an Apply or
	// nothing of it: first the mirrors, in the order of Topic and Kind, with a zero Entry; then the
	// entries, in the order of Seq, with a nil Mirror. An error of each ends Load, which returns it.
	// The function each may keep what it gets, but must not change the bytes. It may call the store.
	Load(ctx context.Context, identity string, each func(Entry, *Mirror) error) error

	// Purge removes everything of all identities but one, as one Apply would.
	Purge(ctx context.Context, exceptIdentity string) error

	// Close waits for calls under way and closes the store. Later calls of the other methods return
	// ErrStore. Close may be called more than once.
	Close() error
}

// An Entry is a push that was not answered yet.
type Entry struct {
	Seq     uint64 // gives the order of an identity's entries and names one of them; not zero
	ID      string // the push's `$id`
	Topic   string // without the prefix of the client
	Event   string
	Payload []byte    // the JSON of an object
	Made    time.Time // by the client's clock. Stores keep times in milliseconds
	Sent    time.Time // the first time; zero: never
	Tries   int       // how often it was sent
}

// A Mirror is the last known value of something at the server, such as a shared object, or the
// position up to which a recorded topic is known. An identity has one for each Topic and Kind.
//
// A mirror without Topic is a value of the identity itself, which only Purge removes. The client's
// `$client` is Mirror{Kind: "$client", Value: …}.
type Mirror struct {
	Topic    string // without the prefix of the client
	Kind     string // what the value is of
	Position history.Position
	Value    []byte // encoded as Kind determines
	Policy   Policy
	Used     time.Time // when the program last used the topic, in milliseconds
}

// Policy determines what becomes of a mirror when its topic is left.
type Policy uint8

const (
	Forget       Policy = iota // it is removed
	Keep                       // it stays as it is, and is recovered when the topic is joined again
	KeepUpdating               // the topic stays joined, so that it is updated
)

// String returns the name of the policy, such as "Keep".
func (p Policy) String() string {
	switch p {
	case Forget:
		return "Forget"
	case Keep:
		return "Keep"
	case KeepUpdating:
		return "KeepUpdating"
	}
	return "Policy(" + strconv.Itoa(int(p)) + ")"
}

// An Op is one change of an identity's data. Exactly one of its fields is set.
type Op struct {
	Put    *Entry  // stores an entry, and replaces the one with the same Seq
	Drop   uint64  // removes the entry with this Seq, if there is one
	Keep   *Mirror // stores a mirror, and replaces the one with the same Topic and Kind
	Forget string  // removes all mirrors of this topic
}

// Config makes a client keep its pushes. Only Store is required.
type Config struct {
	// Store keeps them. The creator of the client closes it after the client.
	Store Store
	// Identity names the user who is logged in, in at most 1 KiB. Empty means a user without a name.
	// One client at a time may use an identity of a store.
	Identity string
	// KeepOthers keeps the data of other identities. By default it is removed before the client
	// connects.
	KeepOthers bool

	// Ordered sends an entry only after the one before it in its topic was answered. By default up to
	// 8 of a topic are unanswered at the same time, which are sent in the order of Seq.
	Ordered bool
	// Resend also sends entries again that the server may have handled and forgotten: see ErrExpired.
	Resend bool

	Count int           // entries that wait; zero means 10,000
	Bytes int64         // bytes of their payloads; zero means 64 MiB
	Age   time.Duration // an older entry ends with ErrExpired; zero means 48 h

	// MirrorBytes bounds the bytes of the mirrors. Beyond it, the mirror with the policy Keep that was
	// used least recently is removed. Zero means 64 MiB.
	MirrorBytes int64

	// OnDelivered is called with the result of an entry, in this process or in a later one, on the
	// goroutine of the client's callbacks. The entry is removed when it has returned, so it may be
	// called again for an entry if the process ends before. Nil means no call.
	OnDelivered func(e Entry, reply serializer.Payload, err error)
}

// The bounds of Check.
const (
	maxOps      = 10_000
	maxIdentity = 1 << 10
	maxID       = 64
	maxName     = 8 << 10
	maxKind     = 256
	maxBytes    = 16 << 20
	maxApply    = 64 << 20
)

// Check returns an error that wraps ErrInvalid if an Op has not exactly one field set, an Entry has
// no Seq, or something is too large: an identity of more than 1 KiB, an ID of more than 64 bytes, a
// Kind of more than 256, a Topic or an Event of more than 8 KiB, a Payload or a Value of more than
// 16 MiB, or operations that are more than 10,000 or have more than 64 MiB. Implementations of
// Store call it.
func Check(identity string, ops []Op) error {
	if len(identity) > maxIdentity {
		return fmt.Errorf("%w: an identity of %d bytes", ErrInvalid, len(identity))
	}
	if len(ops) > maxOps {
		return fmt.Errorf("%w: %d operations", ErrInvalid, len(ops))
	}
	total := 0
	for i, op := range ops {
		size, err := op.check()
		if total += size; err == nil && total > maxApply {
			err = errors.New("the operations are too large together")
		}
		if err != nil {
			return fmt.Errorf("%w %d: %w", ErrInvalid, i, err)
		}
	}
	return nil
}

// check returns the size of what the operation stores.
func (op Op) check() (size int, err error) {
	fields := 0
	for _, set := range [...]bool{op.Put != nil, op.Drop != 0, op.Keep != nil, op.Forget != ""} {
		if set {
			fields++
		}
	}
	if fields != 1 {
		return 0, fmt.Errorf("%d fields are set instead of one", fields)
	}
	switch {
	case op.Put != nil:
		e := op.Put
		if e.Seq == 0 {
			return 0, errors.New("an entry without Seq")
		}
		if len(e.ID) > maxID || len(e.Topic) > maxName || len(e.Event) > maxName || len(e.Payload) > maxBytes {
			return 0, errors.New("the entry is too large")
		}
		return len(e.ID) + len(e.Topic) + len(e.Event) + len(e.Payload), nil
	case op.Keep != nil:
		m := op.Keep
		if len(m.Topic) > maxName || len(m.Kind) > maxKind || len(m.Value) > maxBytes {
			return 0, errors.New("the mirror is too large")
		}
		return len(m.Topic) + len(m.Kind) + len(m.Value), nil
	case len(op.Forget) > maxName:
		return 0, errors.New("the topic is too long")
	}
	return len(op.Forget), nil
}
