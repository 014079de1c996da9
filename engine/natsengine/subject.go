package natsengine

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxToken is how long a token may be that is not a hash. A server refuses subjects that do not fit in a line of 4 kB with what else is in it.
const maxToken = 200

// token is a name of any bytes as one token of a subject. Different names have different tokens.
func token(name string) string {
	special := 0
	for i := range len(name) {
		if !stands(name[i]) {
			special++
		}
	}
	switch {
	case name == "":
		return "%"
	case len(name)+2*special > maxToken:
		sum := sha256.Sum256([]byte(name))
		return "%hash-" + hex.EncodeToString(sum[:]) // no escape begins with an h
	case special == 0:
		return name
	}
	const digits = "0123456789ABCDEF"
	escaped := make([]byte, 0, len(name)+2*special)
	for i := range len(name) {
		if c := name[i]; stands(c) {
			escaped = append(escaped, c)
		} else {
			escaped = append(escaped, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(escaped)
}

// stands tells whether a byte of a name stands for itself.
func stands(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_:/=@+,", c) >= 0
}
