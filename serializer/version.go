package serializer

import (
	"cmp"
	"strings"
)

// Default is V1, V2 and V3, in this order. The slice is the caller's.
func Default() []Serializer { return []Serializer{V1(), V2(), V3()} }

// Select is the first serializer of list that answers to the version vsn, as a client names it in its URL. It goes by Elixir's
// rules: vsn is a complete semantic version, MAJOR.MINOR.PATCH with perhaps a pre-release and build metadata. A serializer of
// version X.Y.Z answers to X.Y.Z and the later patches of X.Y, one of version X.Y to X.Y.0 and everything later of X. A pre-release
// counts as earlier than its release; build metadata does not count.
//
// A client that names no version at all means 1.0.0, which is for the caller to put in.
func Select(list []Serializer, vsn string) (Serializer, bool) {
	v, ok := parseVersion(vsn)
	if !ok {
		return nil, false
	}
	for _, s := range list {
		full := Vsn(s)
		least, ok := parseVersion(full)
		if !ok || v.core[0] != least.core[0] || v.compare(least) < 0 {
			continue
		}
		if full == s.Version() && v.core[1] != least.core[1] {
			continue
		}
		return s, true
	}
	return nil, false
}

// Vsn is the full version of s, as a client names it in its URL: 3.0.0 for "3.0".
func Vsn(s Serializer) string {
	v := s.Version()
	end := strings.IndexAny(v, "-+")
	if end < 0 {
		end = len(v)
	}
	if strings.Count(v[:end], ".") == 1 {
		return v[:end] + ".0" + v[end:]
	}
	return v
}

// version is a semantic version. Its numbers stay digits, which may be any number of them.
type version struct {
	core [3]string
	pre  []string
}

func parseVersion(s string) (v version, ok bool) {
	s, build, hasBuild := strings.Cut(s, "+")
	s, pre, hasPre := strings.Cut(s, "-")
	if hasBuild {
		for id := range strings.SplitSeq(build, ".") {
			if !isIdentifier(id) {
				return v, false
			}
		}
	}
	if hasPre {
		for id := range strings.SplitSeq(pre, ".") {
			if !isIdentifier(id) || (isDigits(id) && !isNumber(id)) {
				return v, false
			}
			v.pre = append(v.pre, id)
		}
	}
	for i := range v.core {
		var more bool
		v.core[i], s, more = strings.Cut(s, ".")
		if !isNumber(v.core[i]) || more != (i < len(v.core)-1) {
			return v, false
		}
	}
	return v, true
}

func (v version) compare(w version) int {
	for i := range v.core {
		if c := compareNumbers(v.core[i], w.core[i]); c != 0 {
			return c
		}
	}
	if len(v.pre) == 0 || len(w.pre) == 0 {
		return cmp.Compare(len(w.pre), len(v.pre)) // the release is later than what came before it
	}
	for i := range min(len(v.pre), len(w.pre)) {
		a, b := v.pre[i], w.pre[i]
		var c int
		switch an, bn := isDigits(a), isDigits(b); {
		case an && bn:
			c = compareNumbers(a, b)
		case an:
			c = -1
		case bn:
			c = 1
		default:
			c = strings.Compare(a, b)
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(v.pre), len(w.pre))
}

func compareNumbers(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isNumber reports whether s is a number without leading zeros.
func isNumber(s string) bool { return isDigits(s) && (s[0] != '0' || s == "0") }

func isIdentifier(s string) bool {
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '-') {
			return false
		}
	}
	return s != ""
}
