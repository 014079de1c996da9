package serializer

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"time"
)

// appendMsgpackAsJSON appends the valid MessagePack value b as JSON, as described at [V3].
func appendMsgpackAsJSON(dst, b []byte) []byte {
	var room [16]mpLevel
	open := mpLevels(room[:0])
	for i := 0; ; {
		v, next := readMsgpack(b, i)
		if next < 0 {
			return append(dst, "null"...) // unreachable, since b is valid
		}
		i = next
		key := false
		if n := len(open); n > 0 {
			l := &open[n-1]
			key = l.object && l.left%2 == 0
			switch last := dst[len(dst)-1]; {
			case l.object && !key:
				dst = append(dst, ':')
			case last != '[' && last != '{':
				dst = append(dst, ',')
			}
			l.left--
		}
		switch {
		case v.kind == mpArray:
			dst = append(dst, '[')
			open = open.enter(&v)
		case v.kind == mpMap:
			dst = append(dst, '{')
			open = open.enter(&v)
		case key && v.kind < mpStr:
			dst = append(dst, '"')
			dst = append(appendScalarAsJSON(dst, &v), '"')
		default:
			dst = appendScalarAsJSON(dst, &v)
		}
		for len(open) > 0 && open[len(open)-1].left == 0 {
			if open[len(open)-1].object {
				dst = append(dst, '}')
			} else {
				dst = append(dst, ']')
			}
			open = open[:len(open)-1]
		}
		if len(open) == 0 {
			return dst
		}
	}
}

func appendScalarAsJSON(dst []byte, v *mpValue) []byte {
	switch v.kind {
	case mpBool:
		return strconv.AppendBool(dst, v.bits == 1)
	case mpInt:
		return strconv.AppendInt(dst, int64(v.bits), 10)
	case mpUint:
		return strconv.AppendUint(dst, v.bits, 10)
	case mpFloat:
		return appendFloat(dst, v.float())
	case mpStr:
		return AppendString(dst, string(v.data))
	case mpExt:
		if t, ok := timestamp(v); ok {
			return append(t.AppendFormat(append(dst, '"'), time.RFC3339Nano), '"')
		}
		fallthrough
	case mpBin:
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), v.data), '"')
	}
	return append(dst, "null"...)
}

// appendFloat appends f as encoding/json and JavaScript do. NaN and infinities become null.
func appendFloat(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
		if n := len(dst); n >= 4 && string(dst[n-4:n-1]) == "e-0" { // e-09 is written e-9
			dst = append(dst[:n-2], dst[n-1])
		}
		return dst
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}

// timestamp decodes MessagePack's timestamp extension. It returns false for times that RFC 3339
// cannot express.
func timestamp(v *mpValue) (t time.Time, ok bool) {
	if v.ext != -1 {
		return t, false
	}
	var sec, nsec uint64
	switch d := v.data; len(d) {
	case 4:
		sec = uint64(binary.BigEndian.Uint32(d))
	case 8:
		n := binary.BigEndian.Uint64(d)
		sec, nsec = n&(1<<34-1), n>>34
	case 12:
		sec, nsec = binary.BigEndian.Uint64(d[4:]), uint64(binary.BigEndian.Uint32(d))
	default:
		return t, false
	}
	const first, last = -62167219200, 253402300799 // the years 0000 and 9999
	if s := int64(sec); s < first || s > last || nsec > 999_999_999 {
		return t, false
	}
	return time.Unix(int64(sec), int64(nsec)).UTC(), true
}

// appendJSONAsMsgpack appends the MessagePack of the valid JSON value raw.
func appendJSONAsMsgpack(dst, raw []byte) []byte {
	var room [32]int
	return appendJSONTokens(dst, containerSizes(room[:0], raw), raw, 0)
}

// appendJSONTokens appends the tokens from i on. The first of sizes is that of the next container.
func appendJSONTokens(dst []byte, sizes []int, raw []byte, i int) []byte {
	for i < len(raw) {
		dst, sizes, i = appendJSONToken(dst, sizes, raw, i)
	}
	return dst
}

// appendJSONToken appends the scalar or the beginning of a container at i. It skips punctuation.
// sizes are those of the containers to come, since MessagePack has them before the elements. The
// results are the new dst, sizes and i.
func appendJSONToken(dst []byte, sizes []int, raw []byte, i int) ([]byte, []int, int) {
	end := i + 1
	switch raw[i] {
	case '{':
		dst, sizes = appendMpMapHead(dst, sizes[0]), sizes[1:]
	case '[':
		dst, sizes = appendMpArrayHead(dst, sizes[0]), sizes[1:]
	case '"':
		end = scanString(raw, i)
		dst = appendStringAsMsgpack(dst, raw[i:end])
	case 'n':
		end = i + len("null")
		dst = append(dst, 0xc0)
	case 't':
		end = i + len("true")
		dst = append(dst, 0xc3)
	case 'f':
		end = i + len("false")
		dst = append(dst, 0xc2)
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		end = scanNumber(raw, i)
		dst = appendNumberAsMsgpack(dst, raw[i:end])
	}
	return dst, sizes, end
}

// containerSizes appends the number of elements or members of each container in raw, in the order
// in which the containers begin.
func containerSizes(sizes []int, raw []byte) []int {
	var room [16]int
	open := room[:0] // the open containers, as indexes of sizes
	empty := false   // whether the innermost has no element yet
	for i := 0; i < len(raw); {
		switch c := raw[i]; c {
		case ' ', '\n', '\r', '\t':
			i++
			continue
		case ']', '}':
			open = open[:len(open)-1]
			empty = false
			i++
			continue
		case ',':
			sizes[open[len(open)-1]]++
			i++
			continue
		}
		if empty {
			sizes[open[len(open)-1]]++
			empty = false
		}
		switch raw[i] {
		case '{', '[':
			open = append(open, len(sizes))
			sizes = append(sizes, 0)
			empty = true
			i++
		case '"':
			i = scanString(raw, i)
		default: // a part of a number or word, or a colon
			i++
		}
	}
	return sizes
}

// appendStringAsMsgpack appends the str of the valid JSON string raw.
func appendStringAsMsgpack(dst, raw []byte) []byte {
	if !escaped(raw) {
		return appendMpStr(dst, raw[1:len(raw)-1])
	}
	return appendMpStr(dst, appendUnquoted(nil, raw))
}

// appendNumberAsMsgpack appends the JSON number raw: an integer if it is written as one and 64 bits
// hold it, otherwise a float. An integer that is too large for a float becomes a str of its digits.
func appendNumberAsMsgpack(dst, raw []byte) []byte {
	text := string(raw)
	if text != "-0" && !strings.ContainsAny(text, ".eE") { // -0 must be a float
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return appendMpInt(dst, n)
		}
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			return appendMpUint(dst, n)
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return appendMpStr(dst, text)
	}
	return appendMpFloat(dst, f)
}
