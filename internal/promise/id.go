package promise

// maxID bounds the id of a push.
const maxID = 64

// IsID reports whether the "$id" of a push has 1 to 64 letters, digits, "-" and "_".
func IsID(id string) bool {
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
