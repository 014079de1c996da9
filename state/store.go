package state

import (
	"context"
	"strings"
	"time"

	"bennu.example/history"
)

// Store keeps objects. Package state uses it; programs call the methods of Objects. Package
// statetest contains the suite that every store must pass.
//
// Its methods may be called from any goroutine. Watch, Unwatch and Health do not wait; the others
// return soon after ctx ends. Every store keeps these rules:
//
//   - The writes of one object have one order, the same on all nodes. A write whose Apply returned
//     before another was begun comes first.
//   - Every changed item takes the next revision of its object, deletions included. So does the
//     creation of an object without items. Revisions grow, not always by one, and stay below 2^53.
//   - A Position has the epoch of the object, which is made with it, and a revision with its tag.
//     An object that does not exist has a beginning in the store's own epoch, which is the Prev of
//     its first change.
//   - An item or an object whose time has come is not returned by Read, counts as absent in Apply,
//     and is a deletion in Changes, also if Expire was not called yet.
//   - Reading creates nothing, whatever the object and the position.
//   - The feed may lose, repeat and swap changes, but it invents none.
//   - In every doubt Changes returns ErrTrimmed, ErrEpoch, ErrAhead or ErrTag of package history.
type Store interface {
	// Apply performs ops in order, all or none of them. It checks all conditions before it changes
	// anything. It fails with ErrNotFound or ErrExists by tx.Create, with ErrNotFound by Op.From,
	// with a *ConflictError by Op.If, and with the errors of [Check]. A store that does not answer
	// returns history.ErrUnavailable; the outcome is unknown then.
	//
	// If tx.ID is not empty, and the object has remembered a write with this ID, Apply changes
	// nothing and returns what it returned then, but without values, and Repeated is true. A store
	// remembers the last 1,000 IDs of 10 minutes. That of a write that failed is not remembered. A
	// write that changed nothing, such as the deletion of an absent item, has no revision. Its ID is
	// remembered only if the object remembers fewer than 250 IDs from the last 10 minutes. So the
	// last 750 IDs of writes that changed something are always remembered.
	Apply(ctx context.Context, object string, ops []Op, tx Tx) (Applied, error)

	// Read returns a page of the items in a range, in the order of their keys, or in the opposite
	// order if r.Reverse is set. It has at most max items, and may have fewer. It begins at the key
	// next, or if next is empty at the beginning of the range; at its end if r.Reverse is set.
	// Position is that of the object when the page was read.
	Read(ctx context.Context, object string, r Range, next string, max int) (Page, error)

	// Changes returns the items that changed after a position, in the order of their revisions,
	// with what is known of deleted ones: at most max of those for which r.Touches is true.
	// Position is where the next page continues; it is the object's if More is false. With max 0
	// Changes only finds out whether since can be continued: Position is since, and More says
	// whether anything changed.
	//
	// The deletion of a subtree (Op.Under) is kept apart from the items, and is returned also if its
	// key was put again. Item.From may be empty.
	//
	// The zero position is history.ErrPosition. An object that was removed, or made again, is
	// ErrEpoch. If the position is beyond the object's, it is ErrAhead. If it names no revision of
	// the object, it is ErrTag. If this is not known any more, or if a deletion after it is not, it
	// is ErrTrimmed.
	Changes(ctx context.Context, object string, since history.Position, r Range, max int) (Page, error)

	// Tops returns the positions of objects.
	Tops(ctx context.Context, objects []string) ([]history.Position, error)

	// Watch starts the feed of an object, and Unwatch ends it. For one object the calls alternate. The
	// store calls ready(nil) when the feed has begun, once for each Watch and each reconnection, or
	// ready with an error. It may do so before Watch returns.
	Watch(object string, ready func(error))
	Unwatch(object string)

	// Run connects to the store, reconnects, and feeds at least the watched objects, until ctx ends.
	// Then it returns nil, after everything that it started has ended.
	Run(ctx context.Context, in Inbox) error

	// Expire deletes up to about max items and objects whose time has come. It returns how many. If
	// several nodes call it, each is deleted once.
	Expire(ctx context.Context, max int) (int, error)

	// Remove removes an object with everything that is known of it. It returns ErrNotFound if there is
	// none.
	//
	// If id is not empty, and the store has remembered that the object was removed with this ID,
	// Remove changes nothing and returns nil, also if the object was made again. A store remembers at
	// least the last 1,000 such IDs of 10 minutes, apart from those of Tx.ID. An ID has at most 256
	// bytes.
	Remove(ctx context.Context, object, id string) error

	// Health returns the state of the store.
	Health() history.Health
}

// Inbox receives what a store feeds. Its functions may be called from any goroutine, also under
// locks of the store, and call no method of the store.
type Inbox struct {
	Change    func(c Change)
	Uncertain func(reason error) // changes of any watched object may have been missed
}

// Op is one change of an object: it puts an item, moves one, or deletes one or a subtree.
type Op struct {
	Key string
	// From is the key of an item that is moved to Key, with its value and its expiry. Value is nil
	// then. Empty means no move. If there is no such item, Apply returns ErrNotFound, unless Own is
	// set. A move has two changed items: the deletion of From, and then Key, with Item.From.
	From string
	// Value is the new value, in JSON. It must not be changed after the call.
	Value []byte
	// Delete deletes the item. Deleting an item that does not exist is not an error.
	Delete bool
	// Under deletes the items below Key, too: those of Subtree(Key). If there are any, this is one
	// deletion with one revision, whatever their number: an Item with Under. With Delete it includes
	// the item Key, and is skipped if there is no item at Key and below. Without Delete it precedes
	// the put, and there is none if there are no items below.
	Under bool
	// If is the revision that the item Key must have. Zero means that the item must not exist. With
	// Under there must be no items below, in addition. Nil means no condition.
	If *uint64
	// TTL is the time after which the item is deleted. Zero means that it stays. Nil means that this
	// does not change.
	TTL *time.Duration
	// Own skips the op, without an error, unless Tx.Writer is the last writer of the item: of the
	// item From of a move, and with Under of all items at Key and below, of which there must be one.
	Own bool
}

// Tx is what all ops of one Apply have in common. The zero Tx is useful.
type Tx struct {
	// ID identifies the write, so that a repeated one is applied once. Empty means no ID.
	ID string
	// Writer is stored with each item. It is never sent to clients.
	Writer string
	// Create says whether the object must exist. Empty means ModeOpen: the ops create it if it does
	// not.
	Create Mode
	// TTL is the lifetime of an object that is created. Zero means that it stays.
	TTL time.Duration
	// Limits are the bounds of the object.
	Limits Limits
}

// Mode says whether an object must exist.
type Mode string

// The modes of Tx.Create, and of the join parameter "mode".
const (
	ModeOpen     Mode = "open"     // it may exist
	ModeExisting Mode = "existing" // it must exist: ErrNotFound
	ModeNew      Mode = "new"      // it must not exist, and is created, also without ops: ErrExists
)

// Applied is the result of a write.
type Applied struct {
	Revs     []uint64         // of the items, one for each op; zero if the item is not known
	Prev     history.Position // of the object before the write
	Position history.Position // of the object after the write. It equals Prev if nothing was changed
	Items    []Item           // those that changed, in the order of their revisions
	Repeated bool             // the result of an earlier write with the same ID
}

// Item is a key with its value, or a deletion.
type Item struct {
	Key     string
	From    string // of a change that moved the item: its key before
	Value   []byte // JSON. It must not be changed
	Rev     uint64
	Deleted string    // the reason if it was deleted: "deleted" or "expired"
	Under   bool      // everything below Key was deleted as well; what is there now has a higher Rev
	Expires time.Time // zero means never
	Writer  string    // Tx.Writer
}

// The reasons of Item.Deleted and Change.Gone.
const (
	ReasonDeleted = "deleted"
	ReasonExpired = "expired"
	ReasonRemoved = "removed" // of Change.Gone
)

// Change is one write of an object as the store feeds it.
type Change struct {
	Object   string
	Prev     history.Position // of the object before
	Position history.Position // of the object afterwards
	Items    []Item           // none if the object was created without items, or is gone
	Gone     string           // why the object was removed; empty if it was not
}

// Page is a part of an object.
type Page struct {
	Items    []Item
	Position history.Position
	Next     string    // of Read: where the next page begins. Empty means that this is the last one
	More     bool      // of Changes: there are more
	Expires  time.Time // of Read: when the object expires. Zero means never
}

// Range is a part of the keys of an object. The zero Range is all of them.
type Range struct {
	From   string // the first key
	To     string // the first key after the range; empty means none
	Prefix string
	// Reverse makes Store.Read begin at the end of the range, and leave out an item whose key is
	// empty. It means nothing elsewhere.
	Reverse bool
}

// Has reports whether a key is in the range.
func (r Range) Has(key string) bool {
	return key >= r.From && (r.To == "" || key < r.To) &&
		len(key) >= len(r.Prefix) && key[:len(r.Prefix)] == r.Prefix
}

// Touches reports whether the range may contain what a change is about: the item's key, or one
// below it if Under is set.
func (r Range) Touches(it Item) bool { return r.touches(&it) }

// touches is Touches for an item that is not copied.
func (r *Range) touches(it *Item) bool {
	if !it.Under || r.Has(it.Key) {
		return r.Has(it.Key)
	}
	sub := Subtree(it.Key)
	return (r.To == "" || r.To > sub.From) && (sub.To == "" || r.From < sub.To) &&
		(sub.Has(r.Prefix) || strings.HasPrefix(sub.From+separator, r.Prefix))
}

// separator is between the segments of a path. It sorts before all other bytes of a key, so that
// siblings are in the order of their segments.
const separator = "\x01"

// Subtree returns the range of a key and all keys below it: those that begin with the key and the
// byte 0x01, which separates the segments of a path. If the key is empty, these are all.
func Subtree(key string) Range {
	if key == "" {
		return Range{}
	}
	return Range{From: key, To: key + "\x02"} // no key has a smaller byte
}

// start returns the first key that may be in the range.
func (r Range) start() string { return max(r.From, r.Prefix) }

// isBehind reports whether a key, and every greater one, comes after the range.
func (r Range) isBehind(key string) bool {
	return r.To != "" && key >= r.To || key > r.Prefix && !r.hasPrefix(key)
}

// end returns a key that is after the range, before all others that are. Empty means none.
func (r Range) end() string {
	if r.Prefix == "" {
		return r.To
	}
	end := r.Prefix + "\xff" // no key has this byte
	if r.To != "" {
		end = min(end, r.To)
	}
	return end
}

func (r Range) hasPrefix(key string) bool {
	return len(key) >= len(r.Prefix) && key[:len(r.Prefix)] == r.Prefix
}

// one is the range of a single key.
func one(key string) Range { return Range{From: key, To: key + "\x00"} }
