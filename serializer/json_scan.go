package serializer

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// The scanner below accepts what Jason accepts, in one pass and without recursion. That is RFC
// 8259 with more restrictions than encoding/json has: no invalid UTF-8, no escape of half a
// surrogate pair and no number with a fraction or an exponent that overflows a float64. Integers
// may have any length.
//
// Its functions take the position of a token's first byte and return the position after its last
// byte. A negative result is the complement of the position of the first invalid byte.

// maxDepth is the number of levels of arrays and objects that a message may have, including its
// own. It is encoding/json's limit.
const maxDepth = 10_000

// validJSON reports whether b is one JSON value, with optional spaces around it.
func validJSON(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	end := scanValue(b, skipSpace(b, 0), 0)
	return end >= 0 && skipSpace(b, end) == len(b)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// trimSpace returns b without the spaces around the value.
func trimSpace(b []byte) []byte {
	i, end := skipSpace(b, 0), len(b)
	for end > i && skipSpace(b[end-1:end], 0) == 1 {
		end--
	}
	return b[i:end:end]
}

// scanValue scans the value at i, which is within depth open levels. It does not check UTF-8.
func scanValue(b []byte, i, depth int) int {
	var open levels
	for {
		if i >= len(b) {
			return ^i
		}
		switch c := b[i]; c {
		case '"':
			i = scanString(b, i)
		case '{', '[':
			if depth+open.n == maxDepth {
				return ^i
			}
			open.push(c == '{')
			i = skipSpace(b, i+1)
			if i < len(b) && b[i] == c+2 { // ] is [+2, } is {+2
				break // it is empty and is closed below
			}
			if c == '{' {
				if i = scanKey(b, i); i < 0 {
					return i
				}
			}
			continue
		case 't':
			i = scanWord(b, i, "true")
		case 'f':
			i = scanWord(b, i, "false")
		case 'n':
			i = scanWord(b, i, "null")
		default:
			i = scanNumber(b, i)
		}
		if i < 0 {
			return i
		}
		for { // after a value, or before the end of an empty container
			if open.n == 0 {
				return i
			}
			i = skipSpace(b, i)
			if i >= len(b) {
				return ^i
			}
			object := open.object()
			if b[i] == ',' {
				i = skipSpace(b, i+1)
				if object {
					if i = scanKey(b, i); i < 0 {
						return i
					}
				}
				break
			}
			if (object && b[i] != '}') || (!object && b[i] != ']') {
				return ^i
			}
			open.pop()
			i++
		}
	}
}

// scanKey scans a key and its colon, up to the value.
func scanKey(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return ^i
	}
	if i = scanString(b, i); i < 0 {
		return i
	}
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return ^i
	}
	return skipSpace(b, i+1)
}

func scanWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return ^i
	}
	return i + len(word)
}

func scanString(b []byte, i int) int {
	i++ // the quote
	for {
		i = skipPlain(b, i)
		if i >= len(b) {
			return ^i
		}
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			if i = scanEscape(b, i); i < 0 {
				return i
			}
		default: // a control character
			return ^i
		}
	}
}

// skipPlain skips unescaped characters of a string. It stops at a quote, a backslash, a control
// character or the end.
func skipPlain(b []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(b)-i >= 8 { // eight bytes at a time; the lowest high bit that is set marks the first byte to stop at
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		stop := ((w - ones*0x20) &^ w) | ((quote - ones) &^ quote) | ((slash - ones) &^ slash)
		if stop &= highs; stop != 0 {
			return i + bits.TrailingZeros64(stop)/8
		}
		i += 8
	}
	for i < len(b) && b[i] >= 0x20 && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

func scanEscape(b []byte, i int) int {
	if i+1 >= len(b) {
		return ^len(b)
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if _, size := unescapeRune(b[i:]); size > 0 {
			return i + size
		}
	}
	return ^i
}

// unescapeRune decodes the escape at the start of s, which begins with \u: one \uXXXX, or two that
// form a surrogate pair. Size is zero if the escape is invalid.
func unescapeRune[T string | []byte](s T) (r rune, size int) {
	r, ok := hex4(s)
	if !ok || (r >= 0xdc00 && r < 0xe000) {
		return 0, 0
	}
	if r < 0xd800 || r >= 0xe000 {
		return r, 6
	}
	if len(s) < 12 || s[6] != '\\' || s[7] != 'u' {
		return 0, 0
	}
	low, ok := hex4(s[6:])
	if !ok || low < 0xdc00 || low >= 0xe000 {
		return 0, 0
	}
	return 0x10000 + (r-0xd800)<<10 + (low - 0xdc00), 12
}

// hex4 returns the value of the four digits after \u.
func hex4[T string | []byte](s T) (r rune, ok bool) {
	if len(s) < 6 {
		return 0, false
	}
	for i := 2; i < 6; i++ {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func scanNumber(b []byte, i int) int {
	start := i
	if b[i] == '-' {
		i++
	}
	whole := skipDigits(b, i)
	if whole == i || (b[i] == '0' && whole > i+1) {
		return ^i
	}
	i = whole
	float, risky := false, whole-start > 200 // fewer digits with an exponent of two digits cannot overflow
	if i < len(b) && b[i] == '.' {
		float = true
		end := skipDigits(b, i+1)
		if end == i+1 {
			return ^end
		}
		i = end
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		float = true
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		end := skipDigits(b, i)
		if end == i {
			return ^end
		}
		risky = risky || end-i > 2
		i = end
	}
	if float && risky {
		if _, err := strconv.ParseFloat(string(b[start:i]), 64); err != nil {
			return ^start
		}
	}
	return i
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// levels is a stack with one bit for each open container: whether it is an object. It does not
// allocate for up to 64 levels.
type levels struct {
	n    int
	top  uint64
	rest []uint64
}

func (l *levels) push(object bool) {
	if l.n > 0 && l.n%64 == 0 {
		l.rest = append(l.rest, l.top)
	}
	l.top <<= 1
	if object {
		l.top |= 1
	}
	l.n++
}

func (l *levels) pop() {
	l.top >>= 1
	l.n--
	if l.n > 0 && l.n%64 == 0 {
		l.top = l.rest[len(l.rest)-1]
		l.rest = l.rest[:len(l.rest)-1]
	}
}

func (l *levels) object() bool { return l.top&1 == 1 }

// cursor iterates over the members of one array or object and scans each.
type cursor struct {
	b  []byte
	at int // the position of the next token; negative: the complement of the first invalid byte's
	n  int // the number of members so far
}

// open returns a cursor for the container at the start of b, which begins with delim.
func open(b []byte, delim byte) cursor {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != delim {
		return cursor{b: b, at: ^i}
	}
	return cursor{b: b, at: i + 1}
}

// next moves to the next member. It returns false at the end, which is marked by delim, and if the
// text is invalid.
func (c *cursor) next(delim byte) bool {
	if c.at < 0 {
		return false
	}
	c.at = skipSpace(c.b, c.at)
	if c.at < len(c.b) {
		switch d := c.b[c.at]; {
		case d == delim: // "[,1]" and "[1,]" fail in scanValue, which needs a value
			c.at++
			return false
		case c.n == 0:
			c.n++
			return true
		case d == ',':
			c.n++
			c.at = skipSpace(c.b, c.at+1)
			return true
		}
	}
	c.at = ^c.at
	return false
}

// value scans the current member. It returns nil if the text is invalid.
func (c *cursor) value() []byte {
	if c.at < 0 {
		return nil
	}
	start := c.at
	if c.at = scanValue(c.b, start, 1); c.at < 0 {
		return nil
	}
	return c.b[start:c.at:c.at]
}

// member scans a key and its value. The key keeps its quotes and escapes.
func (c *cursor) member() (key, value []byte) {
	start := c.at
	if c.at = scanKey(c.b, start); c.at < 0 {
		return nil, nil
	}
	key = c.b[start:scanString(c.b, start)]
	return key, c.value()
}

// done reports whether the container is valid and followed by spaces only. Call it after next
// returned false.
func (c *cursor) done() bool {
	if c.at >= 0 {
		if c.at = skipSpace(c.b, c.at); c.at < len(c.b) {
			c.at = ^c.at
		}
	}
	return c.at >= 0
}
