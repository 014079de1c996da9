package boltengine

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"bennu.example/history"
	"bennu.example/state"
)

// The values of bucketState have a checksum of the key and the value at their end. Numbers are
// uvarints, and texts have their length first.

// encoder appends the fields of a value.
type encoder []byte

func (e *encoder) number(n uint64)             { *e = binary.AppendUvarint(*e, n) }
func (e *encoder) text(s string)               { e.number(uint64(len(s))); *e = append(*e, s...) }
func (e *encoder) bytes(b []byte)              { e.number(uint64(len(b))); *e = append(*e, b...) }
func (e *encoder) position(p history.Position) { e.text(p.String()) }

// sealed returns the value of a key.
func (e *encoder) sealed(key []byte) []byte {
	return binary.BigEndian.AppendUint32(*e, sumOf(key, *e))
}

func sumOf(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// decoder reads the fields of a value. After an error it returns zeros.
type decoder struct {
	rest []byte
	err  error
}

// unseal returns the decoder of the value of a key.
func unseal(key, value []byte) *decoder {
	end := len(value) - 4
	if end < 0 || binary.BigEndian.Uint32(value[end:]) != sumOf(key, value[:end]) {
		return &decoder{err: fmt.Errorf("%w: wrong checksum of an object", errDamaged)}
	}
	return &decoder{rest: value[:end]}
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = fmt.Errorf("%w: malformed object", errDamaged)
	}
	d.rest = nil
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

// bytes returns a part of the value, which is not a copy.
func (d *decoder) bytes() []byte {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) text() string { return string(d.bytes()) }

func (d *decoder) tag() (t tag) {
	if copy(t[:], d.bytes()); d.err == nil && !t.valid() {
		d.fail()
	}
	return t
}

func (d *decoder) position() history.Position {
	p, err := history.ParsePosition(d.text())
	if err != nil {
		d.fail()
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
	e := make(encoder, 0, 96)
	e.number(o.number)
	e.text(o.epoch)
	e.bytes(o.tag[:])
	for _, n := range [...]uint64{
		o.rev, o.first, o.scanned, o.floor, uint64(o.items), uint64(o.bytes), uint64(o.keep), o.idFirst, o.idNext,
		uint64(o.expires),
	} {
		e.number(n)
	}
	return e.sealed(key)
}

func parseObject(key, value []byte) (object, error) {
	d := unseal(key, value)
	o := object{number: d.number(), epoch: d.text(), tag: d.tag()}
	o.rev, o.first, o.scanned, o.floor = d.number(), d.number(), d.number(), d.number()
	o.items, o.bytes, o.keep = int(d.number()), int(d.number()), int(d.number())
	o.idFirst, o.idNext, o.expires = d.number(), d.number(), int64(d.number())
	if _, err := history.NewPosition(o.epoch, o.rev, string(o.tag[:])); d.err == nil &&
		(err != nil || o.first == 0 || o.first > o.rev || o.idFirst > o.idNext || o.items < 0 || o.bytes < 0) {
		d.fail()
	}
	return o, d.err
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
	e := make(encoder, 0, 40+len(it.writer)+len(it.value))
	e.number(it.rev)
	e.bytes(it.tag[:])
	e.text(it.deleted)
	e.number(uint64(it.expires))
	e.text(it.writer)
	e.bytes(it.value)
	return e.sealed(key)
}

func parseItem(key, value []byte) (storedItem, error) {
	d := unseal(key, value)
	return storedItem{
		rev: d.number(), tag: d.tag(), deleted: d.text(), expires: int64(d.number()), writer: d.text(), value: d.bytes(),
	}, d.err
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
	e := make(encoder, 0, 24+len(r.key))
	e.bytes(r.tag[:])
	e.number(uint64(r.at))
	flags := uint64(0)
	if r.deletes {
		flags |= flagDeletes
	}
	if r.under {
		flags |= flagUnder
	}
	e.number(flags)
	e.text(r.key)
	return e.sealed(key)
}

func parseRevision(key, value []byte) (revision, error) {
	d := unseal(key, value)
	r := revision{tag: d.tag(), at: int64(d.number())}
	flags := d.number()
	r.deletes, r.under, r.key = flags&flagDeletes != 0, flags&flagUnder != 0, d.text()
	return r, d.err
}

// rememberedID is a write with an ID, without values.
type rememberedID struct {
	number  uint64
	at      int64 // in Unix milliseconds
	applied state.Applied
}

func (r *rememberedID) encode(key []byte) []byte {
	e := make(encoder, 0, 128)
	e.number(r.number)
	e.number(uint64(r.at))
	a := &r.applied
	e.position(a.Prev)
	e.position(a.Position)
	e.number(uint64(len(a.Revs)))
	for _, rev := range a.Revs {
		e.number(rev)
	}
	e.number(uint64(len(a.Items)))
	for _, it := range a.Items {
		e.text(it.Key)
		e.text(it.From)
		e.number(it.Rev)
		e.text(it.Deleted)
		e.number(uint64(stampOf(it.Expires)))
		e.text(it.Writer)
		under := uint64(0)
		if it.Under {
			under = 1
		}
		e.number(under)
	}
	return e.sealed(key)
}

func parseID(key, value []byte) (rememberedID, error) {
	d := unseal(key, value)
	r := rememberedID{number: d.number(), at: int64(d.number())}
	a := &r.applied
	a.Prev, a.Position = d.position(), d.position()
	for n := d.number(); n > 0 && d.err == nil; n-- {
		a.Revs = append(a.Revs, d.number())
	}
	for n := d.number(); n > 0 && d.err == nil; n-- {
		a.Items = append(a.Items, state.Item{
			Key: d.text(), From: d.text(), Rev: d.number(), Deleted: d.text(), Expires: timeOf(int64(d.number())),
			Writer: d.text(), Under: d.number() == 1,
		})
	}
	return r, d.err
}
