package boltengine

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/offline"
)

// The value of an entry and of a mirror begins with a checksum of 4 bytes of the identity, the key
// and the rest. Numbers have 8 bytes. Texts follow their size, which has 4 bytes; the last field
// has no size. The fields of an entry are Made, Sent, Tries, ID, Topic, Event and Payload; those of
// a mirror are Used, Policy, Position and Value. Times are Unix milliseconds.

// noTime is the zero time.
const noTime = math.MinInt64

// encodeOp encodes an operation that was checked.
func encodeOp(identity string, op offline.Op) clientChange {
	switch {
	case op.Put != nil:
		e := op.Put
		c := clientChange{bucket: bucketEntries, key: binary.BigEndian.AppendUint64(nil, e.Seq)}
		size := 4 + 3*8 + 3*4 + len(e.ID) + len(e.Topic) + len(e.Event) + len(e.Payload)
		v := appendTime(appendTime(make([]byte, 4, size), e.Made), e.Sent)
		v = binary.BigEndian.AppendUint64(v, uint64(e.Tries))
		v = appendText(appendText(appendText(v, e.ID), e.Topic), e.Event)
		c.value = sealClient(identity, c.key, append(v, e.Payload...))
		return c
	case op.Drop != 0:
		return clientChange{bucket: bucketEntries, key: binary.BigEndian.AppendUint64(nil, op.Drop)}
	case op.Keep != nil:
		m := op.Keep
		c := clientChange{bucket: bucketMirrors, key: append(mirrorPrefix(m.Topic), m.Kind...)}
		v := appendTime(make([]byte, 4, 4+2*8+64+len(m.Value)), m.Used)
		v = binary.BigEndian.AppendUint64(v, uint64(m.Policy))
		v = appendText(v, m.Position.String())
		c.value = sealClient(identity, c.key, append(v, m.Value...))
		return c
	}
	return clientChange{bucket: bucketMirrors, key: mirrorPrefix(op.Forget), prefix: true}
}

// mirrorPrefix is the beginning of the keys of a topic's mirrors: the size of the topic in 2 bytes,
// and the topic. The kind follows.
func mirrorPrefix(topic string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(topic))), topic...)
}

func appendTime(v []byte, t time.Time) []byte {
	ms := int64(noTime)
	if !t.IsZero() {
		ms = t.UnixMilli()
	}
	return binary.BigEndian.AppendUint64(v, uint64(ms))
}

func appendText(v []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(v, uint32(len(s))), s...)
}

// sealClient sets the checksum of a value.
func sealClient(identity string, key, v []byte) []byte {
	binary.BigEndian.PutUint32(v, clientSum(identity, key, v))
	return v
}

func clientSum(identity string, key, v []byte) uint32 {
	sum := crc32.Update(crc32.Checksum([]byte(identity), castagnoli), castagnoli, key)
	return crc32.Update(sum, castagnoli, v[4:])
}

// clientValue reads the fields of a value. It copies nothing.
type clientValue struct {
	rest []byte
	bad  bool
}

// openValue checks the sum of a value. Keys and sizes of values may be of any damaged page.
func openValue(identity string, key, v []byte) *clientValue {
	if len(v) < 4 || binary.BigEndian.Uint32(v) != clientSum(identity, key, v) {
		return &clientValue{bad: true}
	}
	return &clientValue{rest: v[4:]}
}

func (v *clientValue) number() uint64 {
	if len(v.rest) < 8 {
		v.rest, v.bad = nil, true
		return 0
	}
	n := binary.BigEndian.Uint64(v.rest)
	v.rest = v.rest[8:]
	return n
}

func (v *clientValue) time() time.Time {
	if ms := int64(v.number()); ms != noTime {
		return time.UnixMilli(ms)
	}
	return time.Time{}
}

func (v *clientValue) text() string {
	if len(v.rest) < 4 || uint64(len(v.rest)-4) < uint64(binary.BigEndian.Uint32(v.rest)) {
		v.rest, v.bad = nil, true
		return ""
	}
	n := binary.BigEndian.Uint32(v.rest)
	s := string(v.rest[4 : 4+n])
	v.rest = v.rest[4+n:]
	return s
}

func parseEntry(identity string, k, v []byte) (e offline.Entry, err error) {
	in := openValue(identity, k, v)
	e = offline.Entry{Made: in.time(), Sent: in.time(), Tries: int(in.number())}
	e.ID, e.Topic, e.Event, e.Payload = in.text(), in.text(), in.text(), bytes.Clone(in.rest)
	if in.bad || len(k) != 8 {
		return offline.Entry{}, fmt.Errorf("%w: malformed entry %x", errDamaged, k[:min(len(k), 8)])
	}
	e.Seq = binary.BigEndian.Uint64(k)
	return e, nil
}

func parseMirror(identity string, k, v []byte) (m offline.Mirror, err error) {
	in := openValue(identity, k, v)
	m = offline.Mirror{Used: in.time(), Policy: offline.Policy(in.number())}
	err = m.Position.UnmarshalText([]byte(in.text()))
	m.Value = bytes.Clone(in.rest)
	if in.bad || err != nil || len(k) < 2 || len(k)-2 < int(binary.BigEndian.Uint16(k)) {
		return offline.Mirror{}, fmt.Errorf("%w: malformed mirror", errDamaged)
	}
	at := 2 + int(binary.BigEndian.Uint16(k))
	m.Topic, m.Kind = string(k[2:at]), string(k[at:])
	return m, nil
}

// read returns what an identity has, in order.
func (c *clientStore) read(identity string) (entries []offline.Entry, mirrors []offline.Mirror, err error) {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.closed {
		return nil, nil, errClientClosed
	}
	err = c.store.view(func(tx *bolt.Tx) error {
		own := tx.Bucket(bucketIdentities).Bucket(identityKey(identity))
		if own == nil {
			return nil
		}
		if b := own.Bucket(bucketMirrors); b != nil {
			if err := b.ForEach(func(k, v []byte) error {
				m, err := parseMirror(identity, k, v)
				mirrors = append(mirrors, m)
				return err
			}); err != nil {
				return err
			}
		}
		if b := own.Bucket(bucketEntries); b != nil {
			return b.ForEach(func(k, v []byte) error {
				e, err := parseEntry(identity, k, v)
				entries = append(entries, e)
				return err
			})
		}
		return nil
	})
	if err != nil {
		return nil, nil, c.failure(err)
	}
	slices.SortFunc(mirrors, func(a, b offline.Mirror) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Kind, b.Kind))
	})
	return entries, mirrors, nil
}

// deletePrefix removes the keys that begin with a prefix.
func deletePrefix(b *bolt.Bucket, prefix []byte) error {
	var found [][]byte
	at := b.Cursor()
	for k, _ := at.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = at.Next() {
		found = append(found, bytes.Clone(k))
	}
	for _, k := range found {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
