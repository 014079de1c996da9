package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

const (
	maxEpoch  = 16        // bytes
	maxOffset = 1<<53 - 1 // the largest integer that every JSON parser keeps
	maxDigits = 16        // of an offset
	// maxPosition is the length of the longest position in text form, with its separators.
	maxPosition = maxEpoch + 1 + maxDigits + 1 + len(tag{})
	// maxMessage bounds how much of an invalid position an error repeats.
	maxMessage = 64
)

// tagAlphabet has 32 characters, without those that people confuse.
const tagAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// ErrPosition reports text that is not a position.
var ErrPosition = errors.New("history: invalid position")

// Position names one record of a topic, or the beginning of its log. Positions are comparable by
// ==. The zero Position names nothing.
//
// The epoch identifies the log. A log that was lost, replaced or forgotten has another one. The
// offsets of a topic grow within an epoch, not always by one. The tag is random: it distinguishes a
// record from one that was written later at the same offset, after the end of the log was lost.
//
// In text form a position is "<epoch>-<offset>-<tag>", for example "q7hx2c9k-129-0m0a". It has at
// most 38 bytes.
type Position struct {
	epoch  string
	offset uint64
	tag    tag
}

// tag is the tag of a position. The zero tag is unknown, and beginningTag marks a beginning.
type tag [4]byte

var beginningTag = tag{'0', '0', '0', '0'}

// ParsePosition parses the text form of a position. Any other text is an error that wraps
// ErrPosition.
func ParsePosition(s string) (Position, error) {
	if p, ok := parsePosition(s); ok {
		return p, nil
	}
	return Position{}, positionError(s)
}

func positionError(s string) error {
	return fmt.Errorf("%w %q", ErrPosition, strings.Clone(s[:min(len(s), maxMessage)]))
}

func parsePosition(s string) (Position, bool) {
	end := len(s) - len(tag{}) - 1 // of the offset
	if len(s) > maxPosition || end < 0 || s[end] != '-' {
		return Position{}, false
	}
	start := strings.IndexByte(s, '-') + 1
	offset, ok := parseOffset(s[min(start, end):end])
	if !ok {
		return Position{}, false
	}
	return newPosition(s[:start-1], offset, s[end+1:])
}

func parseOffset(digits string) (n uint64, ok bool) {
	if digits == "" || len(digits) > maxDigits || len(digits) > 1 && digits[0] == '0' {
		return 0, false
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
		n = 10*n + uint64(digits[i]-'0')
	}
	return n, true
}

// NewPosition returns a position from its parts. It is for implementations of Log. An epoch has 1
// to 16 characters and a tag has 4, of 0 to 9 and a to z. The tag "0000" makes a beginning. An
// empty tag is unknown, which is allowed only in Record.Prev. The error wraps ErrPosition.
func NewPosition(epoch string, offset uint64, tag string) (Position, error) {
	var p Position
	var ok bool
	if tag == "" {
		p, ok = newPosition(epoch, offset, string(beginningTag[:]))
		p.tag = [4]byte{}
	} else {
		p, ok = newPosition(epoch, offset, tag)
	}
	if !ok {
		return Position{}, positionError(fmt.Sprintf("%.16s-%d-%.16s", epoch, offset, tag))
	}
	return p, nil
}

func newPosition(epoch string, offset uint64, text string) (Position, bool) {
	if len(epoch) == 0 || len(epoch) > maxEpoch || !alphanumeric(epoch) || offset > maxOffset ||
		len(text) != len(tag{}) || !alphanumeric(text) {
		return Position{}, false
	}
	// The epoch may be a part of a long text, which the position must not keep in memory.
	return Position{strings.Clone(epoch), offset, tag([]byte(text))}, true
}

func alphanumeric(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// NewTag returns a random tag for a new record. It has 20 random bits and is never "0000".
func NewTag() string { t := newTag(); return string(t[:]) }

func newTag() tag { return new(tagSource).next() }

// tagSource makes random tags. One random number is enough for three.
type tagSource struct {
	bits uint64
	left int
}

func (s *tagSource) next() (t tag) {
	for {
		if s.left == 0 {
			s.bits, s.left = rand.Uint64(), 3
		}
		n := s.bits & (1<<20 - 1)
		s.bits >>= 20
		s.left--
		if n != 0 {
			// One write of four bytes, which a processor can read again at once, unlike four of one.
			binary.LittleEndian.PutUint32(t[:], uint32(tagAlphabet[n&31])|uint32(tagAlphabet[n>>5&31])<<8|
				uint32(tagAlphabet[n>>10&31])<<16|uint32(tagAlphabet[n>>15&31])<<24)
			return t
		}
	}
}

// Matches reports whether p and q name the same record or beginning. If the tag of p is unknown,
// only the rest is compared.
func (p Position) Matches(q Position) bool {
	return p.offset == q.offset && (p.tag == q.tag || p.tag == tag{}) && p.epoch == q.epoch
}

// Epoch returns the epoch. It is empty for the zero Position.
func (p Position) Epoch() string { return p.epoch }

// Offset returns the offset. Only the offsets of positions of one topic with equal epochs may be
// compared.
func (p Position) Offset() uint64 { return p.offset }

// Tag returns the tag. It is empty if it is unknown.
func (p Position) Tag() string {
	if p.tag == (tag{}) {
		return ""
	}
	return string(p.tag[:])
}

// IsZero reports whether p is the zero Position.
func (p Position) IsZero() bool { return p == Position{} }

// IsBeginning reports whether p names no record, but the place before the first record of a log.
func (p Position) IsBeginning() bool { return p.tag == beginningTag }

// String returns the text form. It is empty for the zero Position. An unknown tag is "????", which
// ParsePosition rejects.
func (p Position) String() string {
	var buf [maxPosition]byte
	return string(p.append(buf[:0]))
}

func (p Position) append(dst []byte) []byte {
	if p.IsZero() {
		return dst
	}
	dst = append(append(dst, p.epoch...), '-')
	dst = append(strconv.AppendUint(dst, p.offset, 10), '-')
	if p.tag == (tag{}) {
		return append(dst, "????"...)
	}
	return append(dst, p.tag[:]...)
}

// AppendText appends the text form. The error is nil.
func (p Position) AppendText(dst []byte) ([]byte, error) { return p.append(dst), nil }

// MarshalText returns the text form. It is empty for the zero Position.
func (p Position) MarshalText() ([]byte, error) { return p.append(nil), nil }

// UnmarshalText parses the text form. Empty text is the zero Position, so that a position that is
// not set yet can be stored as well.
func (p *Position) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*p = Position{}
		return nil
	}
	if len(b) > maxPosition {
		return positionError(string(b[:min(len(b), maxMessage)]))
	}
	q, err := ParsePosition(string(b))
	if err == nil {
		*p = q
	}
	return err
}
