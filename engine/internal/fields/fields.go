// Package fields encodes the fields of stored values: numbers are uvarints, and texts have their
// length first.
package fields

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed reports bytes that Writer does not write.
var ErrMalformed = errors.New("malformed fields")

// Writer appends fields to a value.
type Writer []byte

// Number appends a number.
func (w *Writer) Number(n uint64) { *w = binary.AppendUvarint(*w, n) }

// Text appends a text.
func (w *Writer) Text(s string) {
	w.Number(uint64(len(s)))
	*w = append(*w, s...)
}

// Bytes appends bytes.
func (w *Writer) Bytes(b []byte) {
	w.Number(uint64(len(b)))
	*w = append(*w, b...)
}

// Reader reads fields in the order in which they were written. After an error it returns zeros.
type Reader struct {
	rest []byte
	err  error
}

// NewReader returns a reader of a value.
func NewReader(value []byte) *Reader { return &Reader{rest: value} }

// Err returns ErrMalformed if a field could not be read. Bytes behind the last field are no error:
// see Len.
func (r *Reader) Err() error { return r.err }

// Len returns how many bytes are left.
func (r *Reader) Len() int { return len(r.rest) }

// Fail makes the reader return zeros from now on.
func (r *Reader) Fail() { r.rest, r.err = nil, ErrMalformed }

// Number reads a number.
func (r *Reader) Number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.Fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// Count reads the number of what follows, of which each takes at least one byte.
func (r *Reader) Count() int {
	n := r.Number()
	if n > uint64(len(r.rest)) {
		r.Fail()
		return 0
	}
	return int(n) //nolint:gosec // it is at most the length
}

// Bytes reads bytes, which are a part of the value.
func (r *Reader) Bytes() []byte {
	n := r.Count()
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Text reads a text.
func (r *Reader) Text() string { return string(r.Bytes()) }
