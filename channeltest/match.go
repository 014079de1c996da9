package channeltest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"bennu.example/serializer"
)

// pattern is what a test wants of a payload. See [Inbox.Expect].
type pattern struct {
	any    bool
	binary []byte // nil if the payload is not binary
	value  any    // decoded JSON
	text   string // for failure messages
}

// patternOf returns the pattern of the argument of a test.
func patternOf(want any) (pattern, error) {
	if want == nil {
		return pattern{any: true}, nil
	}
	if b, ok := want.([]byte); ok {
		want = serializer.Binary(b)
	}
	p := serializer.Value(want)
	if p.IsBinary() {
		return pattern{binary: p.Bytes(), text: textOf(p)}, nil
	}
	data, err := p.JSON()
	if err != nil {
		return pattern{}, err
	}
	value, err := decode(data)
	return pattern{value: value, text: textOf(p)}, err
}

// reasonPattern is patternOf, except that a string means {"reason": string}, as for push.Reject.
func reasonPattern(want any) (pattern, error) {
	if s, ok := want.(string); ok {
		want = map[string]string{"reason": s}
	}
	return patternOf(want)
}

func decode(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return v, d.Decode(&v)
}

// String returns " like …", or nothing if every payload matches.
func (p pattern) String() string {
	if p.any {
		return ""
	}
	return " like " + p.text
}

// mismatch returns the first difference of a payload from the pattern. It is empty if there is
// none.
func (p pattern) mismatch(got serializer.Payload) string {
	switch {
	case p.any:
		return ""
	case got.IsBinary() && p.binary == nil:
		return "it is binary"
	case got.IsBinary() && !bytes.Equal(got.Bytes(), p.binary):
		return "the bytes differ"
	case got.IsBinary():
		return ""
	case p.binary != nil:
		return "it is not binary"
	}
	data, err := got.JSON()
	if err != nil {
		return err.Error()
	}
	value, err := decode(data)
	if err != nil {
		return err.Error()
	}
	return mismatch("", p.value, value)
}

// mismatch compares decoded JSON. An object may have more members than the wanted one.
func mismatch(path string, want, got any) string {
	name := "it"
	if path != "" {
		name = strings.TrimPrefix(path, ".")
	}
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %s, want an object", name, short(got))
		}
		for _, key := range slices.Sorted(maps.Keys(w)) {
			value, ok := g[key]
			if !ok {
				return strings.TrimPrefix(path+"."+key, ".") + " is missing"
			}
			if d := mismatch(path+"."+key, w[key], value); d != "" {
				return d
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok {
			return fmt.Sprintf("%s is %s, want an array", name, short(got))
		}
		if len(g) != len(w) {
			return fmt.Sprintf("%s has %d elements, want %d", name, len(g), len(w))
		}
		for i := range w {
			if d := mismatch(fmt.Sprintf("%s[%d]", path, i), w[i], g[i]); d != "" {
				return d
			}
		}
		return ""
	case json.Number:
		if g, ok := got.(json.Number); ok && equalNumbers(w, g) {
			return ""
		}
	default:
		if want == got { // strings, booleans and null
			return ""
		}
	}
	return fmt.Sprintf("%s is %s, want %s", name, short(got), short(want))
}

// equalNumbers compares the values: 1.0 equals 1. Exponents too large for a test are compared as
// texts.
func equalNumbers(a, b json.Number) bool {
	const longest = 40
	if a == b {
		return true
	}
	if len(a) > longest || len(b) > longest || hugeExponent(a) || hugeExponent(b) {
		return false
	}
	x, okX := new(big.Rat).SetString(string(a))
	y, okY := new(big.Rat).SetString(string(b))
	return okX && okY && x.Cmp(y) == 0
}

func hugeExponent(n json.Number) bool {
	i := strings.IndexAny(string(n), "eE")
	return i >= 0 && len(strings.TrimLeft(string(n[i+1:]), "+-0")) > 3
}

// maxText bounds the text of a payload in a failure message.
const maxText = 300

// short returns a decoded value as JSON.
func short(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return clip(string(data))
}

// textOf returns a payload for a failure message.
func textOf(p serializer.Payload) string {
	if p.IsBinary() {
		return clip(fmt.Sprintf("%d bytes %q", len(p.Bytes()), p.Bytes()[:min(len(p.Bytes()), maxText)]))
	}
	data, err := p.JSON()
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return clip(string(data))
}

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}
