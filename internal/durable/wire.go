package durable

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

const (
	memberID = "$id"
	maxID    = 64
)

// isID reports whether an id has 1 to 64 letters, digits, "-" and "_".
func isID(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for _, c := range []byte(id) {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// newID returns a UUID of version 7, which begins with the time in milliseconds.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[6:]) // it never fails
	now := uint64(time.Now().UnixMilli())
	for i := range 6 {
		b[i] = byte(now >> (40 - 8*i))
	}
	b[6], b[8] = b[6]&0x0f|0x70, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
