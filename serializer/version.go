package serializer

import (
	"cmp"
	"strings"
)

// Default returns V1, V2 and V3, in this order. The caller may modify the slice.
func Default() []Serializer { return []Serializer{V1(), V2(), V3()} }

// Select returns the first serializer of list that accepts the version vsn of a client. It
// follows Elixir's rules. vsn is a semantic version: MAJOR.MINOR.PATCH, optionally with a
// pre-release and build metadata. A serializer of version X.Y.Z accepts X.Y.Z and later patches
// of X.Y. A serializer of version X.Y accepts X.Y.0 and all later versions of X. A pre-release is
// earlier than its release. Build metadata is ignored.
//
// For a client without a vsn the caller must pass 1.0.0.
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

// Vsn returns the full version of s, which a client sends in its URL: 3.0.0 for "3.0".
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

// version is a semantic version. Its numbers are kept as digits, because they may have any length.
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
		return cmp.Compare(len(w.pre), len(v.pre)) // a release is later than its pre-releases
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
