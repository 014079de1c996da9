package websocket

import "errors"

// errFragments is why a connection ended whose client cut a message into too many fragments.
var errFragments = errors.New("message in too many fragments")

// fragments counts the frames of the message that a client is sending. The library bounds a message in bytes only, so that one of empty
// fragments would never end.
type fragments struct {
	skip   uint64 // bytes until the next frame's head; while that comes: the length as far as it is known
	count  int32
	have   uint8 // bytes of the head that came
	first  uint8 // the head's first byte
	second uint8
}

// scan takes the bytes that came next. It reports false if a message has more than max frames.
func (f *fragments) scan(p []byte, max int) bool {
	for len(p) > 0 {
		if f.have == 0 && f.skip > 0 {
			n := min(f.skip, uint64(len(p)))
			f.skip -= n
			p = p[n:]
			continue
		}
		complete := f.take(p[0])
		p = p[1:]
		if !complete {
			continue
		}
		switch fin, control := f.first&0x80 != 0, f.first&0x08 != 0; {
		case control:
		case fin:
			f.count = 0
		default:
			f.count++
			if int(f.count) >= max {
				return false
			}
		}
	}
	return true
}

// take takes a byte of a head and reports whether it was the last that matters here.
func (f *fragments) take(b byte) bool {
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
