package websocket

import "errors"

// errFragments is the reason for the end of a connection whose client sent a message in too many
// fragments.
var errFragments = errors.New("message in too many fragments")

// fragments follows the frames of a client that the library reads, and counts those of a message.
// The library bounds a message in bytes only, so a message of empty fragments would never end.
type fragments struct {
	skip   uint64 // bytes until the next header; within a header: the part of the length that is known
	count  int32
	have   uint8 // bytes of the header that arrived
	first  uint8 // the header's first byte
	second uint8
}

// scan processes the next bytes of the connection up to the end of a frame. It returns their
// number, and false if the frame is one more than max of a message.
func (f *fragments) scan(p []byte, max int) (n int, ok bool) {
	ok = true
	if f.have > 0 || f.skip == 0 {
		complete := false
		for n < len(p) && !complete {
			complete = f.header(p[n])
			n++
		}
		if !complete {
			return n, true
		}
		switch fin, control := f.first&0x80 != 0, f.first&0x08 != 0; {
		case control:
		case fin:
			f.count = 0
		default:
			f.count++
			ok = int(f.count) < max
		}
	}
	rest := min(f.skip, uint64(len(p)-n))
	f.skip -= rest
	return n + int(rest), ok
}

// header processes one byte of a header. It reports whether the length is complete. The mask is
// skipped with the payload.
func (f *fragments) header(b byte) bool {
	f.have++
	switch {
	case f.have == 1:
		f.first = b
		return false
	case f.have == 2:
		f.second = b
		if f.skip = uint64(b & 0x7f); f.skip >= 126 {
			f.skip = 0
			return false
		}
	default:
		f.skip = f.skip<<8 | uint64(b)
		if long := f.second&0x7f == 127; f.have < 4 || long && f.have < 10 {
			return false
		}
	}
	f.have = 0
	if f.second&0x80 != 0 {
		f.skip += 4 // the mask
	}
	return true
}
