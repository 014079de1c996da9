// Package key makes keys that sort by the time at which they were made.
//
// A key has 26 characters of "0123456789abcdefghjkmnpqrstvwxyz". The first 10 are the milliseconds
// since 1970, 48 bits, and the other 16 are 80 random bits. The order of the keys as strings, or as
// bytes, is the order of their times.
//
// A key is unique without coordination between the programs that make keys. It is not a secret:
// the keys of one millisecond follow one another.
package key

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	digits = "0123456789abcdefghjkmnpqrstvwxyz"
	// timeDigits and size are the lengths of the time and of the whole key.
	timeDigits, size = 10, 26
	// maxMilli is the last millisecond of the clock that a key can have. One is left for an overflow
	// of the random part.
	maxMilli = 1<<48 - 2
)

// ErrInvalid is wrapped by the error of Time for a text that is not a key.
var ErrInvalid = errors.New("key: invalid key")

// Generator makes keys. Each key of a Generator is greater than the one before. The zero value is
// ready for use, by any number of goroutines. A Generator must not be copied.
type Generator struct {
	// Now returns the time. Nil means time.Now. If the clock goes back, the keys keep the time of the
	// last one.
	Now func() time.Time

	mu     sync.Mutex
	milli  uint64 // of the last key
	random uint80 // of the last key
}

// uint80 is the random part of a key.
type uint80 struct {
	hi uint16
	lo uint64
}

// New returns a key that is greater than all keys that g returned before.
func (g *Generator) New() string {
	now := time.Now
	if g.Now != nil {
		now = g.Now
	}
	milli := uint64(min(max(now().UnixMilli(), 0), maxMilli))
	var seed [10]byte
	_, _ = rand.Read(seed[:]) // it never fails
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next(milli, uint80{binary.BigEndian.Uint16(seed[:]), binary.BigEndian.Uint64(seed[2:])})
	return encode(g.milli, g.random)
}

// next sets the time and the random part of the next key. Within one millisecond, and if the clock
// goes back, the random part of the last key is incremented instead of using the new one.
func (g *Generator) next(milli uint64, random uint80) {
	if milli > g.milli {
		g.milli, g.random = milli, random
		return
	}
	r := &g.random
	if r.lo++; r.lo > 0 {
		return
	}
	if r.hi++; r.hi == 0 {
		g.milli++
	}
}

func encode(milli uint64, random uint80) string {
	var text [size]byte
	for i := timeDigits - 1; i >= 0; i-- {
		text[i] = digits[milli%32]
		milli /= 32
	}
	for i := size - 1; i >= timeDigits; i-- {
		text[i] = digits[random.lo%32]
		random.lo = random.lo>>5 | uint64(random.hi)<<59
		random.hi >>= 5
	}
	return string(text[:])
}

// process makes the keys of New.
var process Generator

// New returns a key that is greater than all keys that New returned before in this process.
func New() string { return process.New() }

// Time returns the time at which a key was made, in milliseconds. The error wraps ErrInvalid.
func Time(key string) (time.Time, error) {
	if len(key) != size {
		return time.Time{}, fmt.Errorf("%w: %d bytes", ErrInvalid, len(key))
	}
	var milli uint64
	for i := range size {
		d := values[key[i]]
		if d == noDigit {
			return time.Time{}, fmt.Errorf("%w: byte %d", ErrInvalid, i)
		}
		if i < timeDigits {
			milli = milli<<5 | uint64(d)
		}
	}
	if milli >= 1<<48 {
		return time.Time{}, fmt.Errorf("%w: its time has more than 48 bits", ErrInvalid)
	}
	return time.UnixMilli(int64(milli)), nil
}

const noDigit = math.MaxUint8

// values are the values of the digits, by their bytes.
var values = func() (v [256]uint8) {
	for i := range v {
		v[i] = noDigit
	}
	for i := range len(digits) {
		v[digits[i]] = uint8(i)
	}
	return v
}()
