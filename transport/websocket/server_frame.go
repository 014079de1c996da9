package websocket

import (
	"encoding/binary"
	"math/bits"

	"bennu.example/serializer"
)

// wholeFrame is a frame that is read without coder/websocket, because nothing but its own bytes
// decides what it means: it has arrived completely, is masked, is neither compressed nor a part of
// a message in fragments, and violates nothing. The library reads all others.
type wholeFrame struct {
	op      serializer.Op
	size    int    // in bytes, header included
	key     uint32 // the mask; its first byte is the lowest
	payload []byte // masked
}

// frameState is how much of a wholeFrame there is.
type frameState int

const (
	frameOther   frameState = iota // the frame is one for the library
	framePartial                   // it can still become whole, and fits in an input
	frameWhole
)

// parseFrame returns the frame at the beginning of b, if it is a wholeFrame. A frame with a payload
// of more than max bytes is none. B is not empty.
func parseFrame(b []byte, max int64) (f wholeFrame, state frameState) {
	// All of the first byte's bits have one right value, except for the opcode.
	f.op = serializer.Op(b[0] & 0x0f)
	switch b[0] {
	case 0x80 | byte(serializer.OpText), 0x80 | byte(serializer.OpBinary),
		0x80 | byte(opClose), 0x80 | byte(opPing), 0x80 | byte(opPong):
	default:
		return f, frameOther
	}
	if len(b) < 2 {
		return f, framePartial
	}
	head, n := 2, int(b[1])-0x80 // a length without the mask's bit is negative
	switch {
	case n < 0:
		return f, frameOther
	case n <= 125:
	case n > 126 || f.op >= opClose:
		return f, frameOther
	case len(b) < 4:
		return f, framePartial
	default:
		head, n = 4, int(binary.BigEndian.Uint16(b[2:]))
	}
	head += 4
	f.size = head + n
	switch {
	case int64(n) > max, f.size > inputSize:
		return f, frameOther
	case len(b) < f.size:
		return f, framePartial
	}
	f.key = binary.LittleEndian.Uint32(b[head-4:])
	f.payload = b[head:f.size]
	if f.op == opClose && !f.validClose() {
		return f, frameOther
	}
	return f, frameWhole
}

// validClose reports whether the payload is that of a close frame: nothing, or a code and a reason.
// The reason need not be valid: see answerCode.
func (f wholeFrame) validClose() bool {
	return len(f.payload) == 0 || len(f.payload) >= 2 && sendableCode(f.code())
}

// code returns the code of a close frame that has one.
func (f wholeFrame) code() int {
	return int(bits.ReverseBytes16(binary.LittleEndian.Uint16(f.payload) ^ uint16(f.key)))
}

// unmasked returns a copy of the payload without the mask.
func (f wholeFrame) unmasked() []byte {
	src := f.payload
	dst := make([]byte, len(src))
	key := uint64(f.key)<<32 | uint64(f.key)
	i := 0
	for ; len(src)-i >= 8; i += 8 {
		binary.LittleEndian.PutUint64(dst[i:], binary.LittleEndian.Uint64(src[i:])^key)
	}
	for ; i < len(src); i++ {
		dst[i] = src[i] ^ byte(key)
		key = bits.RotateLeft64(key, -8)
	}
	return dst
}
