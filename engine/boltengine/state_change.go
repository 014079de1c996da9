package boltengine

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/history"
	"bennu.example/state"
)

// bucketState has the objects of package state, in the buckets below. Files of earlier versions do
// not have it, and it is made by the first write.
var (
	bucketState     = []byte("state")
	bucketObjects   = []byte("objects")   // "o" and the name → object
	bucketItems     = []byte("items")     // the object's number and the key → storedItem
	bucketRevisions = []byte("revisions") // the object's number and the revision → revision
	bucketWrites    = []byte("writes")    // see writeKey and orderKey
	bucketDue       = []byte("due")       // dueKey → the name of the object
	bucketRemoved   = []byte("removed")   // the number of an object that was removed → nothing
)

const (
	// idAge and maxIDs bound the remembered IDs of an object. A write that changes nothing is
	// remembered only if there are fewer than unchangedIDs.
	idAge        = 10 * time.Minute
	maxIDs       = 1000
	unchangedIDs = 250
	// tombstoneAge is how long a deletion is remembered.
	tombstoneAge = time.Hour
	// maxTrim bounds what a write deletes of what is not remembered any more, for each reason.
	maxTrim = 1024
	// maxExpire bounds one Expire, and expireBatch the items of one of its changes.
	maxExpire   = 1024
	expireBatch = 100
)

// numberKey returns the key of something that belongs to an object.
func numberKey(number uint64, rest string) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(rest)), number), rest...)
}

// revisionKey returns the key of a revision.
func revisionKey(number, rev uint64) []byte {
	return binary.BigEndian.AppendUint64(numberKey(number, ""), rev)
}

// writeKey returns the key of a rememberedID, and orderKey that of the ID by its number.
func writeKey(number uint64, id string) []byte { return numberKey(number, "i"+id) }

func orderKey(number, n uint64) []byte {
	return binary.BigEndian.AppendUint64(numberKey(number, "o"), n)
}

// The kinds of what expires.
const (
	dueItem   byte = 'i'
	dueObject byte = 'o'
)

// dueKey returns the key of something that expires: the time, the number of the object, the kind
// and the key of the item.
func dueKey(at int64, number uint64, kind byte, key string) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 17+len(key)), uint64(at))
	b = append(binary.BigEndian.AppendUint64(b, number), kind)
	return append(b, key...)
}

// timeOf returns the time of a stamp in Unix milliseconds. Zero is the zero time.
func timeOf(stamp int64) time.Time {
	if stamp == 0 {
		return time.Time{}
	}
	return time.UnixMilli(stamp)
}

func stampOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// after returns the stamp when a lifetime ends, which is never before now.
func after(now int64, ttl time.Duration) int64 {
	return now + int64((ttl+time.Millisecond-1)/time.Millisecond)
}

func isDue(expires, now int64) bool { return expires != 0 && expires <= now }

// newEpoch returns the epoch of a new object.
func newEpoch() string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range b {
		b[i] = digits[b[i]&31]
	}
	return string(b[:])
}

// objectsTx is a write transaction. Objects are read when they are first needed, and written by
// flush. An error of its methods is about the whole transaction.
type objectsTx struct {
	s          *objects
	objects    *bolt.Bucket
	items      *bolt.Bucket
	revisions  *bolt.Bucket
	writes     *bolt.Bucket
	due        *bolt.Bucket
	removed    *bolt.Bucket
	open       map[string]*openObject
	now        int64 // in Unix milliseconds, by the clock of the store
	removedAny bool
	removals   *openObject // remembers the IDs of removals; nil until it is needed
	count      int         // objects; -1 if it is not known
}

// openObject is an object in a transaction.
type openObject struct {
	object
	name string
	top  history.Position
	gone bool
}

func (s *objects) now() int64 {
	_, stamp := s.clock.now()
	return stamp
}

// begin returns the write transaction, in which all buckets exist.
func (s *objects) begin(tx *bolt.Tx) (*objectsTx, error) {
	root, err := tx.CreateBucketIfNotExists(bucketState)
	if err != nil {
		return nil, err
	}
	x := &objectsTx{s: s, open: make(map[string]*openObject), now: s.now(), count: s.counted}
	for name, b := range map[*[]byte]**bolt.Bucket{
		&bucketObjects: &x.objects, &bucketItems: &x.items, &bucketRevisions: &x.revisions,
		&bucketWrites: &x.writes, &bucketDue: &x.due, &bucketRemoved: &x.removed,
	} {
		if *b, err = root.CreateBucketIfNotExists(*name); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func objectKey(name string) []byte { return append([]byte{'o'}, name...) }

// perform performs a write, and sets its result.
func (x *objectsTx) perform(w *write) error {
	switch w.kind {
	case writeExpire:
		return x.expire(w)
	case writeRemove:
		return x.removeOnce(w)
	default:
		return x.apply(w)
	}
}

// object returns an object, or nil. One whose time has come is removed, as a part of w.
func (x *objectsTx) object(w *write, name string) (*openObject, error) {
	o := x.open[name]
	if o == nil {
		key := objectKey(name)
		v := x.objects.Get(key)
		if v == nil {
			return nil, nil
		}
		parsed, err := parseObject(key, v)
		if err != nil {
			return nil, err
		}
		o = &openObject{object: parsed, name: name, top: positionOf(parsed.epoch, parsed.rev, parsed.tag)}
		x.open[name] = o
	}
	if o.gone {
		return nil, nil
	}
	if isDue(o.expires, x.now) {
		return nil, x.remove(w, o, state.ReasonExpired)
	}
	return o, nil
}

// create adds an object without revisions. The caller makes the first.
func (x *objectsTx) create(name string, ttl time.Duration) (*openObject, error) {
	if x.count >= 0 {
		x.count++
	}
	number, err := x.objects.NextSequence()
	if err != nil {
		return nil, err
	}
	o := &openObject{object: object{number: number, epoch: newEpoch(), first: 1, scanned: 1}, name: name, top: x.s.base}
	if ttl > 0 {
		o.expires = after(x.now, ttl)
		if err := x.due.Put(dueKey(o.expires, number, dueObject, ""), []byte(name)); err != nil {
			return nil, err
		}
	}
	x.open[name] = o
	return o, nil
}

// remove removes an object. The sweep deletes its items.
func (x *objectsTx) remove(w *write, o *openObject, reason string) error {
	o.gone = true
	x.removedAny = true
	if x.count >= 0 {
		x.count--
	}
	w.changes = append(w.changes, state.Change{Object: o.name, Prev: o.top, Position: x.s.base, Gone: reason})
	if o.expires != 0 {
		if err := x.due.Delete(dueKey(o.expires, o.number, dueObject, "")); err != nil {
			return err
		}
	}
	return x.removed.Put(numberKey(o.number, ""), nil)
}

// hasRoom reports whether there may be one more object.
func (x *objectsTx) hasRoom() bool {
	if x.s.maxObjects <= 0 {
		return true
	}
	if x.count < 0 {
		x.count = x.objects.Stats().KeyN
		for _, o := range x.open { // they are written by flush
			switch exists := x.objects.Get(objectKey(o.name)) != nil; {
			case exists && o.gone:
				x.count--
			case !exists && !o.gone:
				x.count++
			}
		}
	}
	return x.count < x.s.maxObjects
}

// flush writes the objects that were opened.
func (x *objectsTx) flush() error {
	for name, o := range x.open {
		key := objectKey(name)
		var err error
		if o.gone {
			err = x.objects.Delete(key)
		} else {
			err = x.objects.Put(key, o.encode(key))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// item returns an item of an object, which may be nil. The item is nil if there is none, not even a
// deletion. Its value is valid until the end of the transaction.
func (x *objectsTx) item(o *openObject, key string) (*storedItem, error) {
	if o == nil {
		return nil, nil
	}
	k := numberKey(o.number, key)
	v := x.items.Get(k)
	if v == nil {
		return nil, nil
	}
	it, err := parseItem(k, v)
	return &it, err
}

// isLive reports whether an item can be read.
func (it *storedItem) isLive(now int64) bool {
	return it != nil && it.deleted == "" && !isDue(it.expires, now)
}

// nextRevision gives an object a new revision. It sets the tag and the time of its entry.
func (x *objectsTx) nextRevision(o *openObject, r revision) error {
	o.rev, o.tag = o.rev+1, newTag()
	r.tag, r.at = o.tag, x.now
	k := revisionKey(o.number, o.rev)
	return x.revisions.Put(k, r.encode(k))
}

// put stores an item as the newest of its object, with its deadline.
func (x *objectsTx) put(o *openObject, key string, old *storedItem, it storedItem) (storedItem, error) {
	if old != nil && old.expires != 0 && old.expires != it.expires {
		if err := x.due.Delete(dueKey(old.expires, o.number, dueItem, key)); err != nil {
			return it, err
		}
	}
	if it.expires != 0 && (old == nil || old.expires != it.expires) {
		if err := x.due.Put(dueKey(it.expires, o.number, dueItem, key), []byte(o.name)); err != nil {
			return it, err
		}
	}
	if err := x.nextRevision(o, revision{key: key, deletes: it.deleted != ""}); err != nil {
		return it, err
	}
	it.rev, it.tag = o.rev, o.tag
	k := numberKey(o.number, key)
	return it, x.items.Put(k, it.encode(k))
}

// export returns an item as others see it.
func (it *storedItem) export(key string, value []byte) state.Item {
	return state.Item{
		Key: key, Value: value, Rev: it.rev, Deleted: it.deleted, Expires: timeOf(it.expires), Writer: it.writer,
	}
}

// trim forgets the oldest revisions and deletions. It keeps the newest revision.
func (x *objectsTx) trim(o *openObject) error {
	for n := 0; o.rev-o.first >= uint64(o.keep) && n < maxTrim; n++ {
		k := revisionKey(o.number, o.first)
		r, err := x.revision(k)
		if err != nil {
			return err
		}
		if err := x.forget(o, o.first, r); err != nil {
			return err
		}
		if err := x.revisions.Delete(k); err != nil {
			return err
		}
		o.first++
	}
	o.scanned = max(o.scanned, o.first)
	for n := 0; o.scanned <= o.rev && n < maxTrim; n++ {
		r, err := x.revision(revisionKey(o.number, o.scanned))
		if err != nil {
			return err
		}
		if r.at > x.now-x.s.tombstoneAge.Milliseconds() {
			break
		}
		if err := x.forget(o, o.scanned, r); err != nil {
			return err
		}
		o.scanned++
	}
	return nil
}

func (x *objectsTx) revision(k []byte) (revision, error) {
	v := x.revisions.Get(k)
	if v == nil {
		return revision{}, fmt.Errorf("%w: a revision is missing", errDamaged)
	}
	return parseRevision(k, v)
}

// forget forgets a deletion, unless the item was changed after it.
func (x *objectsTx) forget(o *openObject, rev uint64, r revision) error {
	if r.under {
		o.floor = max(o.floor, rev)
	}
	if !r.deletes {
		return nil
	}
	it, err := x.item(o, r.key)
	if err != nil || it == nil || it.rev != rev {
		return err
	}
	o.floor = max(o.floor, rev)
	return x.items.Delete(numberKey(o.number, r.key))
}

// find returns the write with an ID that an object remembers.
func (x *objectsTx) find(o *openObject, id string) (a state.Applied, ok bool, err error) {
	if id == "" {
		return a, false, nil
	}
	k := writeKey(o.number, id)
	v := x.writes.Get(k)
	if v == nil {
		return a, false, nil
	}
	r, err := parseID(k, v)
	if err != nil || r.at <= x.now-idAge.Milliseconds() {
		return a, false, err
	}
	r.applied.Repeated = true
	return r.applied, true, nil
}

// remembersUnchanged reports whether a write that changes nothing is remembered.
func (x *objectsTx) remembersUnchanged(o *openObject) (bool, error) {
	if o.idNext-o.idFirst < unchangedIDs {
		return true, nil
	}
	k := writeKey(o.number, string(x.writes.Get(orderKey(o.number, o.idNext-unchangedIDs))))
	r, err := parseID(k, x.writes.Get(k))
	return r.at <= x.now-idAge.Milliseconds(), err
}

// remember remembers a write, and forgets the oldest.
func (x *objectsTx) remember(o *openObject, id string, a state.Applied) error {
	if a.Position == a.Prev {
		if ok, err := x.remembersUnchanged(o); !ok || err != nil {
			return err
		}
	}
	k := writeKey(o.number, id)
	r := rememberedID{number: o.idNext, at: x.now, applied: a}
	if err := x.writes.Put(k, r.encode(k)); err != nil {
		return err
	}
	if err := x.writes.Put(orderKey(o.number, o.idNext), []byte(id)); err != nil {
		return err
	}
	o.idNext++
	for n := 0; o.idFirst < o.idNext-1 && n < 2; n++ { // more are forgotten than remembered
		order := orderKey(o.number, o.idFirst)
		k := writeKey(o.number, string(x.writes.Get(order)))
		if v := x.writes.Get(k); v != nil {
			r, err := parseID(k, v)
			if err != nil {
				return err
			}
			if r.number == o.idFirst { // otherwise the ID was used again
				if o.idNext-o.idFirst <= maxIDs && r.at > x.now-idAge.Milliseconds() {
					break
				}
				if err := x.writes.Delete(k); err != nil {
					return err
				}
			}
		}
		if err := x.writes.Delete(order); err != nil {
			return err
		}
		o.idFirst++
	}
	return nil
}

// expire deletes what has expired.
func (x *objectsTx) expire(w *write) error {
	type entry struct {
		object, key string
		number      uint64
		kind        byte
		at          int64
		raw         []byte
	}
	var due []entry
	cursor := x.due.Cursor()
	for k, v := cursor.First(); k != nil && len(due) < w.max; k, v = cursor.Next() {
		if len(k) < 17 {
			return fmt.Errorf("%w: malformed deadline", errDamaged)
		}
		e := entry{
			string(v), string(k[17:]), binary.BigEndian.Uint64(k[8:]), k[16], int64(binary.BigEndian.Uint64(k)), bytes.Clone(k),
		}
		if e.at > x.now {
			break
		}
		due = append(due, e)
	}
	batches := make(map[*openObject]*state.Change)
	var order []*openObject
	end := func(o *openObject) error {
		c := batches[o]
		c.Position = o.top
		w.changes = append(w.changes, *c)
		delete(batches, o)
		return x.trim(o)
	}
	for _, e := range due {
		o, err := x.object(w, e.object) // this removes an object whose time has come
		if err != nil {
			return err
		}
		if e.kind == dueObject {
			w.n++
		}
		if err := x.due.Delete(e.raw); err != nil {
			return err
		}
		if o == nil || o.number != e.number || e.kind == dueObject {
			continue
		}
		it, err := x.item(o, e.key)
		if err != nil {
			return err
		}
		if it == nil || it.deleted != "" || it.expires != e.at {
			continue // it belongs to nothing
		}
		c := batches[o]
		if c == nil {
			c = &state.Change{Object: o.name, Prev: o.top}
			batches[o] = c
			order = append(order, o)
		}
		o.items--
		o.bytes -= len(e.key) + len(it.value)
		dead, err := x.put(o, e.key, nil, storedItem{deleted: state.ReasonExpired})
		if err != nil {
			return err
		}
		o.top = positionOf(o.epoch, o.rev, o.tag)
		c.Items = append(c.Items, dead.export(e.key, nil))
		w.n++
		if len(c.Items) >= expireBatch {
			if err := end(o); err != nil {
				return err
			}
		}
	}
	for _, o := range order {
		if batches[o] == nil {
			continue
		}
		if err := end(o); err != nil {
			return err
		}
	}
	return nil
}

// sweep deletes a part of what belongs to removed objects. It reports whether there is more.
func (x *objectsTx) sweep() (more bool, err error) {
	budget := sweepDeletes
	for {
		k, _ := x.removed.Cursor().First()
		if k == nil {
			return false, nil
		}
		if len(k) != 8 {
			return false, fmt.Errorf("%w: malformed removal", errDamaged)
		}
		k = bytes.Clone(k)
		for _, b := range [...]*bolt.Bucket{x.items, x.revisions, x.writes} {
			if err := x.sweepBucket(b, k, &budget); err != nil {
				return false, err
			}
		}
		if budget <= 0 {
			return true, nil
		}
		if err := x.removed.Delete(k); err != nil {
			return false, err
		}
	}
}

// sweepBucket deletes what has a prefix, as much as budget allows.
func (x *objectsTx) sweepBucket(b *bolt.Bucket, prefix []byte, budget *int) error {
	number := binary.BigEndian.Uint64(prefix)
	var keys [][]byte
	cursor := b.Cursor()
	for k, v := cursor.Seek(prefix); bytes.HasPrefix(k, prefix) && *budget > 0; k, v = cursor.Next() {
		keys = append(keys, bytes.Clone(k))
		*budget--
		if b != x.items {
			continue
		}
		it, err := parseItem(k, v)
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if err == nil && it.expires != 0 {
			if err := x.due.Delete(dueKey(it.expires, number, dueItem, string(k[8:]))); err != nil {
				return err
			}
		}
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
