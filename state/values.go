package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"bennu.example/serializer"
)

// The server values. An object with exactly one of these members is replaced.
const (
	valueNow = "$now" // {"$now":true}: the time in Unix milliseconds
	valueInc = "$inc" // {"$inc":n}: the number at this place of the current value, plus n
	valueKey = "$key" // {"$key":true}: the item's key
)

// hasServerValues reports whether a value has a member that begins with "$". It may report true for
// one that has not.
func hasServerValues(value []byte) bool {
	return bytes.Contains(value, []byte(`"$`)) || bytes.Contains(value, []byte(`"\u0024`))
}

// needsCurrent reports whether a value can only be resolved with the current one. It may report
// true for one that does not need it.
func needsCurrent(value []byte) bool {
	return hasServerValues(value) && (bytes.Contains(value, []byte("inc")) || bytes.Contains(value, []byte(`\u`)))
}

// maxDepth bounds the levels of a value, as the serializers do.
const maxDepth = 10_000

var errDepth = errors.New("state: too many levels")

// resolver replaces the server values of one value. The texts of all else stay as they are.
type resolver struct {
	in    []byte // valid JSON
	i     int
	out   []byte
	depth int

	key     string
	now     time.Time
	current any // the current value at this place, decoded with numbers as texts; nil if there is none
}

// resolve replaces the server values of a value, which must be valid JSON. The current value is nil
// if the item does not exist.
func resolve(value []byte, key string, current []byte, now time.Time) ([]byte, error) {
	if !hasServerValues(value) {
		return value, nil
	}
	r := resolver{in: value, key: key, now: now, out: make([]byte, 0, len(value)+16)}
	if current != nil {
		var err error
		if r.current, err = decodeAny(current); err != nil {
			return nil, invalid("value")
		}
	}
	if err := r.value(r.current); err != nil {
		return nil, err
	}
	return r.out, nil
}

// decodeAny decodes JSON with numbers as json.Number.
func decodeAny(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

func (r *resolver) space() {
	for r.i < len(r.in) && strings.IndexByte(" \t\r\n", r.in[r.i]) >= 0 {
		r.i++
	}
}

// value copies the next value.
func (r *resolver) value(current any) error {
	r.space()
	switch r.in[r.i] {
	case '{':
		return r.object(current)
	case '[':
		return r.array(current)
	}
	r.out = append(r.out, r.scalar()...)
	return nil
}

// scalar returns the text of the next string, number or word.
func (r *resolver) scalar() []byte {
	begin := r.i
	if r.in[r.i] == '"' {
		for r.i++; r.in[r.i] != '"'; r.i++ {
			if r.in[r.i] == '\\' {
				r.i++
			}
		}
		r.i++
		return r.in[begin:r.i]
	}
	for r.i < len(r.in) && strings.IndexByte(" \t\r\n,:]}", r.in[r.i]) < 0 {
		r.i++
	}
	return r.in[begin:r.i]
}

// copy copies the next byte that is not space.
func (r *resolver) copy() byte {
	r.space()
	b := r.in[r.i]
	r.out = append(r.out, b)
	r.i++
	return b
}

func (r *resolver) array(current any) error {
	if r.depth++; r.depth > maxDepth {
		return errDepth
	}
	defer func() { r.depth-- }()
	elements, _ := current.([]any)
	r.copy()
	if r.space(); r.in[r.i] == ']' {
		r.copy()
		return nil
	}
	for n := 0; ; n++ {
		var at any
		if n < len(elements) {
			at = elements[n]
		}
		if err := r.value(at); err != nil {
			return err
		}
		if r.copy() == ']' {
			return nil
		}
	}
}

func (r *resolver) object(current any) error {
	if r.depth++; r.depth > maxDepth {
		return errDepth
	}
	defer func() { r.depth-- }()
	members, _ := current.(map[string]any)
	begin := len(r.out)
	r.copy()
	if r.space(); r.in[r.i] == '}' {
		r.copy()
		return nil
	}
	for n := 0; ; n++ {
		r.space()
		text := r.scalar()
		name, err := unquote(text)
		if err != nil {
			return invalid("value")
		}
		if strings.HasPrefix(name, "$") {
			if n > 0 {
				return invalid(name)
			}
			return r.serverValue(name, begin, current)
		}
		r.out = append(r.out, text...)
		r.copy() // the colon
		if err := r.value(members[name]); err != nil {
			return err
		}
		if r.copy() == '}' {
			return nil
		}
	}
}

// unquote returns the text of a JSON string.
func unquote(text []byte) (s string, err error) {
	if bytes.IndexByte(text, '\\') < 0 {
		return string(text[1 : len(text)-1]), nil
	}
	err = json.Unmarshal(text, &s)
	return s, err
}

// serverValue replaces an object whose first member begins with "$". Its output begins at begin.
func (r *resolver) serverValue(name string, begin int, current any) error {
	r.out = r.out[:begin]
	r.space()
	r.i++ // the colon
	r.space()
	if b := r.in[r.i]; b == '{' || b == '[' {
		return invalid(name)
	}
	argument := string(r.scalar())
	if r.space(); r.in[r.i] != '}' {
		return invalid(name)
	}
	r.i++
	switch {
	case name == valueNow && argument == "true":
		r.out = strconv.AppendInt(r.out, r.now.UnixMilli(), 10)
	case name == valueKey && argument == "true":
		r.out = serializer.AppendString(r.out, r.key)
	case name == valueInc:
		sum, ok := increment(current, argument)
		if !ok {
			return invalid(name)
		}
		r.out = append(r.out, sum...)
	default:
		return invalid(name)
	}
	return nil
}

// maxInteger is the largest integer that every client has exactly.
const maxInteger = 1 << 53

// increment returns the sum of a current value, which may be nil, and a number.
func increment(current any, by string) (sum string, ok bool) {
	from, isNumber := current.(json.Number)
	if current == nil {
		from, isNumber = "0", true
	}
	if !isNumber || by == "" || by[0] != '-' && (by[0] < '0' || by[0] > '9') {
		return "", false
	}
	a, err1 := strconv.ParseInt(string(from), 10, 64)
	b, err2 := strconv.ParseInt(by, 10, 64)
	within := func(n int64) bool { return -maxInteger <= n && n <= maxInteger }
	if err1 == nil && err2 == nil && within(a) && within(b) && within(a+b) {
		return strconv.FormatInt(a+b, 10), true
	}
	x, err1 := strconv.ParseFloat(string(from), 64)
	y, err2 := strconv.ParseFloat(by, 64)
	if err1 != nil || err2 != nil {
		return "", false
	}
	text, err := json.Marshal(x + y) // fails if it is infinite
	return string(text), err == nil
}

// mergePatch applies a JSON Merge Patch (RFC 7396). The value is nil if there is none.
func mergePatch(value, patch []byte) ([]byte, error) {
	p, err := decodeAny(patch)
	if err != nil {
		return nil, invalid("value")
	}
	var v any
	if value != nil {
		if v, err = decodeAny(value); err != nil {
			return nil, invalid("value")
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(merged(v, p)); err != nil {
		return nil, invalid("value")
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// merged is MergePatch of RFC 7396. It may change the value.
func merged(value, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	v, ok := value.(map[string]any)
	if !ok {
		v = make(map[string]any, len(p))
	}
	for name, change := range p {
		if change == nil {
			delete(v, name)
		} else {
			v[name] = merged(v[name], change)
		}
	}
	return v
}
