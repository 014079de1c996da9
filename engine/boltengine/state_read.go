package boltengine

import (
	"bytes"
	"context"
	"encoding/binary"

	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
	"bennu.example/state"
)

// pageBytes are the bytes of keys and values after which a page ends.
const pageBytes = 64 << 10

// objectsReader is a read transaction.
type objectsReader struct{ objects, items, revisions, due *bolt.Bucket }

// readObjects returns a read transaction. It is nil if the file has no objects.
func readObjects(tx *bolt.Tx) *objectsReader {
	root := tx.Bucket(bucketState)
	if root == nil {
		return nil
	}
	return &objectsReader{
		root.Bucket(bucketObjects), root.Bucket(bucketItems), root.Bucket(bucketRevisions), root.Bucket(bucketDue),
	}
}

// hasRemoved reports whether the sweep has something to do.
func hasRemoved(tx *bolt.Tx) bool {
	root := tx.Bucket(bucketState)
	if root == nil {
		return false
	}
	k, _ := root.Bucket(bucketRemoved).Cursor().First()
	return k != nil
}

// isDue reports whether something has expired.
func (r *objectsReader) isDue(now int64) bool {
	k, _ := r.due.Cursor().First()
	return len(k) >= 8 && int64(binary.BigEndian.Uint64(k)) <= now
}

// object returns an object. It reports false if there is none.
func (r *objectsReader) object(name string, now int64) (o object, ok bool, err error) {
	if r == nil {
		return o, false, nil
	}
	key := objectKey(name)
	v := r.objects.Get(key)
	if v == nil {
		return o, false, nil
	}
	o, err = parseObject(key, v)
	return o, err == nil && !isDue(o.expires, now), err
}

func (o *object) position() history.Position { return positionOf(o.epoch, o.rev, o.tag) }

// view calls f with an object, unless there is none.
func (s *objects) view(ctx context.Context, name string, f func(r *objectsReader, o *object) error) error {
	return s.read(ctx, func(tx *bolt.Tx) error {
		r := readObjects(tx)
		o, ok, err := r.object(name, s.now())
		if err != nil || !ok {
			return err
		}
		return f(r, &o)
	})
}

// Read is part of state.Store.
func (s *objects) Read(ctx context.Context, name string, rng state.Range, next string, limit int) (state.Page, error) {
	p := state.Page{Position: s.base}
	err := s.view(ctx, name, func(r *objectsReader, o *object) error {
		p.Position, p.Expires = o.position(), timeOf(o.expires)
		now, size := s.now(), 0
		prefix := numberKey(o.number, "")
		k, v, step := r.seek(prefix, rng, next)
		for ; bytes.HasPrefix(k, prefix); k, v = step() {
			key := string(k[8:])
			if !rng.Has(key) || rng.Reverse && key == "" { // the others are behind the range, too
				return nil
			}
			it, err := parseItem(k, v)
			switch {
			case err != nil:
				return err
			case !it.isLive(now):
				continue
			case len(p.Items) >= limit || size >= pageBytes:
				p.Next = key
				return nil
			}
			size += len(key) + len(it.value)
			p.Items = append(p.Items, it.export(key, bytes.Clone(it.value)))
		}
		return nil
	})
	if err != nil {
		return state.Page{}, err
	}
	return p, nil
}

// seek returns the first entry of a page of items whose keys have a prefix in the file, and the
// function that returns the next one.
func (r *objectsReader) seek(prefix []byte, rng state.Range, next string) (k, v []byte, step func() (k, v []byte)) {
	cursor := r.items.Cursor()
	at := func(key string) []byte { return append(prefix[:8:8], key...) }
	if !rng.Reverse {
		k, v = cursor.Seek(at(max(next, rng.From, rng.Prefix)))
		return k, v, cursor.Next
	}
	var end []byte // of the page, excluded
	switch {
	case next != "":
		end = at(next + "\x00")
	case rng.Prefix != "" && (rng.To == "" || rng.Prefix+"\xff" < rng.To): // no key has this byte
		end = at(rng.Prefix + "\xff")
	case rng.To != "":
		end = at(rng.To)
	default:
		end = numberKey(binary.BigEndian.Uint64(prefix)+1, "")
	}
	if k, _ = cursor.Seek(end); k == nil {
		k, v = cursor.Last()
	} else {
		k, v = cursor.Prev()
	}
	return k, v, cursor.Prev
}

// Changes is part of state.Store.
func (s *objects) Changes(
	ctx context.Context, name string, since history.Position, rng state.Range, limit int,
) (p state.Page, err error) {
	if since.IsZero() {
		return state.Page{}, history.ErrPosition
	}
	found := false
	err = s.view(ctx, name, func(r *objectsReader, o *object) error {
		found = true
		p, err = s.changes(r, o, since, rng, limit)
		return err
	})
	switch {
	case err != nil:
		return state.Page{}, err
	case found:
		return p, nil
	case since == s.base:
		return state.Page{Position: s.base}, nil
	case since.Epoch() == s.base.Epoch():
		return state.Page{}, history.ErrTag
	}
	return state.Page{}, history.ErrEpoch
}

// changes returns a page in the order of the revisions.
func (s *objects) changes(
	r *objectsReader, o *object, since history.Position, rng state.Range, limit int,
) (state.Page, error) {
	if err := s.canContinue(r, o, since); err != nil {
		return state.Page{}, err
	}
	from := since.Offset() + 1
	p := state.Page{Position: since, More: from <= o.rev}
	if limit <= 0 || !p.More {
		return p, nil
	}
	now, size := s.now(), 0
	cursor := r.revisions.Cursor()
	prefix := numberKey(o.number, "")
	for k, v := cursor.Seek(revisionKey(o.number, from)); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		entry, err := parseRevision(k, v)
		if err != nil {
			return state.Page{}, err
		}
		rev := binary.BigEndian.Uint64(k[8:])
		e, ok, err := r.changed(o, entry, rev, now)
		if err != nil {
			return state.Page{}, err
		}
		if !ok || !rng.Touches(e) {
			p.Position = positionOf(o.epoch, rev, entry.tag)
			continue
		}
		if len(p.Items) >= limit || size >= pageBytes {
			return p, nil
		}
		p.Position = positionOf(o.epoch, rev, entry.tag)
		e.Value = bytes.Clone(e.Value)
		size += len(e.Key) + len(e.Value)
		p.Items = append(p.Items, e)
	}
	p.Position, p.More = o.position(), false
	return p, nil
}

// changed returns the change of a revision, unless a newer one of the item replaces it. The value
// is not a copy.
func (r *objectsReader) changed(o *object, entry revision, rev uint64, now int64) (state.Item, bool, error) {
	if entry.under {
		return state.Item{Key: entry.key, Rev: rev, Deleted: state.ReasonDeleted, Under: true}, true, nil
	}
	k := numberKey(o.number, entry.key)
	v := r.items.Get(k)
	if v == nil {
		return state.Item{}, false, nil
	}
	it, err := parseItem(k, v)
	switch {
	case err != nil || it.rev != rev:
		return state.Item{}, false, err
	case isDue(it.expires, now): // the deletion itself follows
		return state.Item{Key: entry.key, Rev: rev, Deleted: state.ReasonExpired}, true, nil
	case it.deleted != "":
		return it.export(entry.key, nil), true, nil
	}
	return it.export(entry.key, it.value), true, nil
}

// canContinue returns why a position cannot be continued, or nil.
func (s *objects) canContinue(r *objectsReader, o *object, since history.Position) error {
	rev := since.Offset()
	switch {
	case since == s.base: // before the object existed
		if o.first > 1 {
			return history.ErrTrimmed
		}
		return nil
	case since.Epoch() == s.base.Epoch():
		return history.ErrTag
	case since.Epoch() != o.epoch:
		return history.ErrEpoch
	case rev > o.rev:
		return history.ErrAhead
	case rev == 0: // no object begins so
		return history.ErrTag
	case rev < o.first:
		return history.ErrTrimmed
	}
	k := revisionKey(o.number, rev)
	entry, err := parseRevision(k, r.revisions.Get(k))
	switch {
	case err != nil:
		return err
	case string(entry.tag[:]) != since.Tag():
		return history.ErrTag
	case rev < o.floor:
		return history.ErrTrimmed
	}
	return nil
}

// Tops is part of state.Store.
func (s *objects) Tops(ctx context.Context, names []string) ([]history.Position, error) {
	tops := make([]history.Position, len(names))
	err := s.read(ctx, func(tx *bolt.Tx) error {
		r, now := readObjects(tx), s.now()
		for i, name := range names {
			o, ok, err := r.object(name, now)
			if err != nil {
				return err
			}
			tops[i] = s.base
			if ok {
				tops[i] = o.position()
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tops, nil
}
