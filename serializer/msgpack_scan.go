package serializer

import (
	"encoding/binary"
	"math"
)

// mpKind is the type of a MessagePack value.
type mpKind uint8

const (
	mpNil mpKind = iota
	mpBool
	mpInt   // fits an int64
	mpUint  // is larger
	mpFloat // 32 and 64 bits
	mpStr
	mpBin
	mpExt
	mpArray
	mpMap
)

// mpValue is a decoded scalar, or the decoded head of a container.
type mpValue struct {
	kind mpKind
	ext  int8   // the type of an extension
	bits uint64 // of a number; 1 for true
	size int    // the number of values that follow: an array's elements, or a map's keys and values
	data []byte // of str, bin and ext
}

func (v *mpValue) float() float64 { return math.Float64frombits(v.bits) }

// container reports whether v is an array or a map.
func (v *mpValue) container() bool { return v.kind >= mpArray }

// readMsgpack decodes the scalar or the head of the container at i. next is the position after
// it, or the complement of i if there is no valid value. A size never exceeds the number of bytes
// left.
func readMsgpack(b []byte, i int) (v mpValue, next int) {
	if i >= len(b) {
		return v, ^i
	}
	rest := b[i+1:]
	c := b[i]
	var head int // the width of the number or length that follows
	var n uint64 // the number, or the length
	if head = mpHead(c); len(rest) < head {
		return v, ^i
	}
	for _, d := range rest[:head] {
		n = n<<8 | uint64(d)
	}
	rest = rest[head:]
	switch {
	case c < 0x80 || c >= 0xe0:
		v.kind, v.bits = mpInt, uint64(int8(c))
	case c < 0x90:
		v.kind, n = mpMap, uint64(c&0x0f)
	case c < 0xa0:
		v.kind, n = mpArray, uint64(c&0x0f)
	case c < 0xc0:
		v.kind, n = mpStr, uint64(c&0x1f)
	default:
		switch c {
		case 0xc0:
		case 0xc2, 0xc3:
			v.kind, v.bits = mpBool, uint64(c&1)
		case 0xc4, 0xc5, 0xc6:
			v.kind = mpBin
		case 0xc7, 0xc8, 0xc9, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
			if c >= 0xd4 {
				n = 1 << (c - 0xd4)
			}
			if len(rest) == 0 {
				return v, ^i
			}
			v.kind, v.ext, rest = mpExt, int8(rest[0]), rest[1:]
		case 0xca:
			v.kind, v.bits = mpFloat, math.Float64bits(float64(math.Float32frombits(uint32(n))))
		case 0xcb:
			v.kind, v.bits = mpFloat, n
		case 0xcc, 0xcd, 0xce, 0xcf:
			if v.kind, v.bits = mpInt, n; n > math.MaxInt64 {
				v.kind = mpUint
			}
		case 0xd0, 0xd1, 0xd2, 0xd3:
			shift := 64 - 8*head
			v.kind, v.bits = mpInt, uint64(int64(n<<shift)>>shift)
		case 0xd9, 0xda, 0xdb:
			v.kind = mpStr
		case 0xdc, 0xdd:
			v.kind = mpArray
		case 0xde, 0xdf:
			v.kind = mpMap
		default: // 0xc1
			return v, ^i
		}
	}
	switch v.kind {
	case mpMap:
		n *= 2
		fallthrough
	case mpArray:
		if n > uint64(len(rest)) { // a value takes a byte at least
			return v, ^i
		}
		v.size = int(n)
	case mpStr, mpBin, mpExt:
		if n > uint64(len(rest)) {
			return v, ^i
		}
		v.data, rest = rest[:n:n], rest[n:]
	}
	return v, len(b) - len(rest)
}

// mpHead returns the width in bytes of the number or length after the first byte c.
func mpHead(c byte) int {
	switch c {
	case 0xc4, 0xc7, 0xcc, 0xd0, 0xd9:
		return 1
	case 0xc5, 0xc8, 0xcd, 0xd1, 0xda, 0xdc, 0xde:
		return 2
	case 0xc6, 0xc9, 0xca, 0xce, 0xd2, 0xdb, 0xdd, 0xdf:
		return 4
	case 0xcb, 0xcf, 0xd3:
		return 8
	}
	return 0
}

// mpLevels is a stack of open containers.
type mpLevels []mpLevel

type mpLevel struct {
	left   int // the number of values to come
	object bool
}

// enter pushes the container v. The stack grows in large steps, so that deep nesting allocates
// rarely.
func (s mpLevels) enter(v *mpValue) mpLevels {
	if len(s) == cap(s) {
		s = append(make(mpLevels, 0, 4*cap(s)), s...)
	}
	return append(s, mpLevel{v.size, v.kind == mpMap})
}

// scanMsgpack returns the end of the value at i, which is within depth open levels. The result is
// negative, the complement of a position, if the value there is invalid, has too many levels, or
// is a map key that has no text.
func scanMsgpack(b []byte, i, depth int) int {
	var room [16]mpLevel
	open := mpLevels(room[:0])
	for {
		v, next := readMsgpack(b, i)
		if next < 0 {
			return next
		}
		if n := len(open); n > 0 {
			l := &open[n-1]
			if l.object && l.left%2 == 0 && v.kind >= mpExt {
				return ^i
			}
			l.left--
		}
		if v.container() {
			if depth+len(open) == maxDepth {
				return ^i
			}
			open = open.enter(&v)
		}
		i = next
		for len(open) > 0 && open[len(open)-1].left == 0 {
			open = open[:len(open)-1]
		}
		if len(open) == 0 {
			return i
		}
	}
}

// The functions below append MessagePack in its shortest form.

func appendMpInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendMpUint(dst, uint64(n))
	case n >= -32:
		return append(dst, byte(n))
	case n >= math.MinInt8:
		return append(dst, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(dst, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(dst, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xd3), uint64(n))
}

func appendMpUint(dst []byte, n uint64) []byte {
	if n < 0x80 {
		return append(dst, byte(n))
	}
	return appendMpSize(dst, n, 0xcc, 0xcd, 0xce, 0xcf)
}

func appendMpFloat(dst []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, 0xcb), math.Float64bits(f))
}

func appendMpStr[T string | []byte](dst []byte, s T) []byte {
	return append(appendMpStrHead(dst, len(s)), s...)
}

// maxShortMpStr is the length of the longest string whose head is one byte.
const maxShortMpStr = 31

func appendMpStrHead(dst []byte, n int) []byte {
	if n <= maxShortMpStr {
		return append(dst, 0xa0|byte(n))
	}
	return appendMpSize(dst, uint64(n), 0xd9, 0xda, 0xdb, 0)
}

func appendMpBin(dst, b []byte) []byte {
	return append(appendMpSize(dst, uint64(len(b)), 0xc4, 0xc5, 0xc6, 0), b...)
}

func appendMpArrayHead(dst []byte, n int) []byte {
	if n < 16 {
		return append(dst, 0x90|byte(n))
	}
	return appendMpSize(dst, uint64(n), 0, 0xdc, 0xdd, 0)
}

func appendMpMapHead(dst []byte, n int) []byte {
	if n < 16 {
		return append(dst, 0x80|byte(n))
	}
	return appendMpSize(dst, uint64(n), 0, 0xde, 0xdf, 0)
}

// appendMpSize appends n in the smallest width that holds it, after the byte for that width. Zero
// means that the width does not exist.
func appendMpSize(dst []byte, n uint64, in8, in16, in32, in64 byte) []byte {
	switch {
	case n <= math.MaxUint8 && in8 != 0:
		return append(dst, in8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, in16), uint16(n))
	case n <= math.MaxUint32 || in64 == 0: // lengths never exceed 32 bits
		return binary.BigEndian.AppendUint32(append(dst, in32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, in64), n)
}
