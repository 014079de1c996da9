package boltengine

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"bennu.example/engine/internal/fields"
	"bennu.example/history"
	"bennu.example/state"
)

// The values of bucketState are fields, with a checksum of the key and the value at their end.

// sealed returns the value of a key.
func sealed(w fields.Writer, key []byte) []byte {
	return binary.BigEndian.AppendUint32(w, sumOf(key, w))
}

func sumOf(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// valueReader reads the fields of a value.
type valueReader struct {
	*fields.Reader
	failure error // Nil means that the checksum is right.
}

// unseal returns the reader of the value of a key.
func unseal(key, value []byte) valueReader {
	end := len(value) - 4
	if end < 0 || binary.BigEndian.Uint32(value[end:]) != sumOf(key, value[:end]) {
		return valueReader{fields.NewReader(nil), fmt.Errorf("%w: wrong checksum of an object", errDamaged)}
	}
	return valueReader{fields.NewReader(value[:end]), nil}
}

// damage returns errDamaged if a field could not be read, or had an impossible value.
func (d valueReader) damage() error {
	if d.failure == nil && d.Err() != nil {
		return fmt.Errorf("%w: malformed object", errDamaged)
	}
	return d.failure
}

func (d valueReader) tag() (t tag) {
	if copy(t[:], d.Bytes()); d.Err() == nil && !t.valid() {
		d.Fail()
	}
	return t
}

func (d valueReader) position() history.Position {
	p, err := history.ParsePosition(d.Text())
	if err != nil {
		d.Fail()
	}
	return p
}

// object is what the file knows of an object, apart from its items. Revisions have no holes.
type object struct {
	number  uint64 // in the keys of what belongs to it
	epoch   string
	rev     uint64 // the newest revision
	tag     tag
	first   uint64 // the oldest revision whose entry is kept
	scanned uint64 // the deletions before this revision have been looked at because of their age
	floor   uint64 // the newest deletion that is not remembered any more
	items   int    // without deleted ones
	bytes   int    // of their keys and values
	keep    int    // Limits.Changes of the last write
	idFirst uint64 // the oldest remembered ID
	idNext  uint64 // the number of the next one
	expires int64  // in Unix milliseconds; zero means never
}

func (o *object) encode(key []byte) []byte {
	w := make(fields.Writer, 0, 96)
	w.Number(o.number)
	w.Text(o.epoch)
	w.Bytes(o.tag[:])
	for _, n := range [...]uint64{
		o.rev, o.first, o.scanned, o.floor, uint64(o.items), uint64(o.bytes), uint64(o.keep), o.idFirst, o.idNext,
		uint64(o.expires),
	} {
		w.Number(n)
	}
	return sealed(w, key)
}

func parseObject(key, value []byte) (object, error) {
	d := unseal(key, value)
	o := object{number: d.Number(), epoch: d.Text(), tag: d.tag()}
	o.rev, o.first, o.scanned, o.floor = d.Number(), d.Number(), d.Number(), d.Number()
	o.items, o.bytes, o.keep = int(d.Number()), int(d.Number()), int(d.Number())
	o.idFirst, o.idNext, o.expires = d.Number(), d.Number(), int64(d.Number())
	if _, err := history.NewPosition(o.epoch, o.rev, string(o.tag[:])); d.damage() == nil &&
		(err != nil || o.first == 0 || o.first > o.rev || o.idFirst > o.idNext || o.items < 0 || o.bytes < 0) {
		d.Fail()
	}
	return o, d.damage()
}

// storedItem is an item in the file, or a deletion that is remembered. The reason of a deletion is
// in deleted.
type storedItem struct {
	rev     uint64
	tag     tag
	deleted string
	expires int64 // in Unix milliseconds; zero means never
	writer  string
	value   []byte
}

func (it *storedItem) encode(key []byte) []byte {
	w := make(fields.Writer, 0, 40+len(it.writer)+len(it.value))
	w.Number(it.rev)
	w.Bytes(it.tag[:])
	w.Text(it.deleted)
	w.Number(uint64(it.expires))
	w.Text(it.writer)
	w.Bytes(it.value)
	return sealed(w, key)
}

func parseItem(key, value []byte) (storedItem, error) {
	d := unseal(key, value)
	return storedItem{
		rev: d.Number(), tag: d.tag(), deleted: d.Text(), expires: int64(d.Number()), writer: d.Text(), value: d.Bytes(),
	}, d.damage()
}

// revision is the entry of a revision. It has the key of the item that changed. If the item has
// another revision by now, only the tag counts. The entry of the deletion of a subtree always
// counts: no item has its revision.
type revision struct {
	tag     tag
	at      int64 // in Unix milliseconds
	deletes bool  // the item
	under   bool  // the item and everything below it
	key     string
}

const (
	flagDeletes = 1 << iota
	flagUnder
)

func (r *revision) encode(key []byte) []byte {
	w := make(fields.Writer, 0, 24+len(r.key))
	w.Bytes(r.tag[:])
	w.Number(uint64(r.at))
	flags := uint64(0)
	if r.deletes {
		flags |= flagDeletes
	}
	if r.under {
		flags |= flagUnder
	}
	w.Number(flags)
	w.Text(r.key)
	return sealed(w, key)
}

func parseRevision(key, value []byte) (revision, error) {
	d := unseal(key, value)
	r := revision{tag: d.tag(), at: int64(d.Number())}
	flags := d.Number()
	r.deletes, r.under, r.key = flags&flagDeletes != 0, flags&flagUnder != 0, d.Text()
	return r, d.damage()
}

// rememberedID is a write with an ID, without values.
type rememberedID struct {
	number  uint64
	at      int64 // in Unix milliseconds
	applied state.Applied
}

func (r *rememberedID) encode(key []byte) []byte {
	w := make(fields.Writer, 0, 128)
	w.Number(r.number)
	w.Number(uint64(r.at))
	a := &r.applied
	w.Text(a.Prev.String())
	w.Text(a.Position.String())
	w.Number(uint64(len(a.Revs)))
	for _, rev := range a.Revs {
		w.Number(rev)
	}
	w.Number(uint64(len(a.Items)))
	for _, it := range a.Items {
		w.Text(it.Key)
		w.Text(it.From)
		w.Number(it.Rev)
		w.Text(it.Deleted)
		w.Number(uint64(stampOf(it.Expires)))
		w.Text(it.Writer)
		under := uint64(0)
		if it.Under {
			under = 1
		}
		w.Number(under)
	}
	return sealed(w, key)
}

func parseID(key, value []byte) (rememberedID, error) {
	d := unseal(key, value)
	r := rememberedID{number: d.Number(), at: int64(d.Number())}
	a := &r.applied
	a.Prev, a.Position = d.position(), d.position()
	for n := d.Number(); n > 0 && d.damage() == nil; n-- {
		a.Revs = append(a.Revs, d.Number())
	}
	for n := d.Number(); n > 0 && d.damage() == nil; n-- {
		a.Items = append(a.Items, state.Item{
			Key: d.Text(), From: d.Text(), Rev: d.Number(), Deleted: d.Text(), Expires: timeOf(int64(d.Number())),
			Writer: d.Text(), Under: d.Number() == 1,
		})
	}
	return r, d.damage()
}
