package natsengine

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxToken limits the length of a token that is not a hash. A server refuses a line of its protocol
// that is longer than 4 kB, including the subject.
const maxToken = 200

// token returns a name as one token of a subject. The name may contain any bytes. Different names
// have different tokens.
func token(name string) string {
	special := 0
	for i := range len(name) {
		if !plain(name[i]) {
			special++
		}
	}
	switch {
	case name == "":
		return "%"
	case len(name)+2*special > maxToken:
		sum := sha256.Sum256([]byte(name))
		return "%hash-" + hex.EncodeToString(sum[:]) // no escape begins with "%h"
	case special == 0:
		return name
	}
	const digits = "0123456789ABCDEF"
	escaped := make([]byte, 0, len(name)+2*special)
	for i := range len(name) {
		if c := name[i]; plain(c) {
			escaped = append(escaped, c)
		} else {
			escaped = append(escaped, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(escaped)
}

// plain reports whether a byte of a name is not escaped.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("-_:/=@+,", c) >= 0
}
