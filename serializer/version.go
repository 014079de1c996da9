package serializer

import "strings"

// Default is V1, V2 and V3, in this order.
func Default() []Serializer { return []Serializer{V1(), V2(), V3()} }

// Select is the first serializer of list that answers to vsn.
func Select(list []Serializer, vsn string) (Serializer, bool) {
	for _, s := range list {
		parts := strings.Split(s.Version(), ".")
		if strings.Count(vsn, ".") == 2 && strings.HasPrefix(vsn, strings.Join(parts[:len(parts)-1], ".")+".") {
			return s, true
		}
	}
	return nil, false
}

// Vsn is the full version of s, as a client names it in its URL.
func Vsn(s Serializer) string {
	v := s.Version()
	for strings.Count(v, ".") < 2 {
		v += ".0"
	}
	return v
}
