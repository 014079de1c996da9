package mirror

import (
	"context"
	"iter"
)

// Document is a mirror of a document: one value.
type Document[T any] struct{ Mirror }

// OpenDocument opens a document and waits until the server has accepted or refused it, or ctx ends.
// Nil options mean the defaults. A topic can be open once per client.
func OpenDocument[T any](ctx context.Context, o Opener, topic string, opt *Options) (*Document[T], error) {
	d := new(Document[T])
	if err := d.open(ctx, o, "document", topic, opt); err != nil {
		return nil, err
	}
	return d, nil
}

// Value returns the value and its revision, which is zero if the document has no value. A value
// that cannot be decoded is the zero T; Changes and Update return the error.
func (d *Document[T]) Value() (v T, rev uint64) { return value[T](&d.Mirror, "") }

// Set replaces the value, whatever it is. When it returns, the copy has the write. If ctx ends
// first, the write may still happen. The error is one of the reasons of this package, or wraps
// history.ErrUncertain or channel.ErrClosed.
func (d *Document[T]) Set(ctx context.Context, v T) error { return d.set(ctx, "", v, nil) }

// Update changes the value by f, which begins with the newest value, or with the zero T if there is
// none. If the value was changed meanwhile, f is called again with the new one, until ctx ends. An
// error of f is returned, and nothing is written. Update waits for the connection. Its errors are
// those of Set.
func (d *Document[T]) Update(ctx context.Context, f func(*T) error) error {
	return update(ctx, &d.Mirror, "", f)
}

// Changes returns a sequence of changes that makes the same copy. It begins with the value that the
// document has, then Synced, and continues until ctx or the mirror ends.
//
// At most 1,024 changes, or 4 MiB of them, wait for the loop. If there are more, the sequence has a
// *channel.OverflowError instead of all of them, then Reset and the copy. Another error names a
// value that is not a T, with its change. The last error says why the mirror has ended, unless it
// was closed by Close.
func (d *Document[T]) Changes(ctx context.Context) iter.Seq2[Change[T], error] {
	return changes[T](ctx, &d.Mirror)
}
