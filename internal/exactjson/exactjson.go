// Package exactjson decodes JSON as encoding/json does, but keeps the value of integers that a
// float64 cannot hold.
package exactjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strconv"
	"sync"
)

// Unmarshal is json.Unmarshal with one difference, which concerns numbers that are decoded into an
// interface. An integer that a float64 cannot hold becomes a json.Number, which keeps its digits.
// All other numbers become a float64, as usual. So an integer that was decoded into any is encoded
// again without a change.
func Unmarshal(raw []byte, v any) error {
	if !hasLongNumber(raw) || !holdsInterface(reflect.TypeOf(v)) {
		return json.Unmarshal(raw, v)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err := dec.Decode(v)
	f := fixer{seen: make(map[visit]bool)}
	f.fix(reflect.ValueOf(v)) // also after an error, because a part may have been decoded
	if err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return json.Unmarshal(raw, new(json.RawMessage)) // for its error
	}
	return f.err
}

// long is the least number of digits of an integer that a float64 may not hold: 2^53 has 16.
const long = 16

// hasLongNumber reports whether raw has that many digits in a row, in a string or outside of one.
// It looks at every 16th byte only, because such a row contains at least one of these.
func hasLongNumber(raw []byte) bool {
	for i := long - 1; i < len(raw); i += long {
		if !isDigit(raw[i]) {
			continue
		}
		first, end := i, i+1
		for first > 0 && isDigit(raw[first-1]) {
			first--
		}
		for end < len(raw) && isDigit(raw[end]) {
			end++
		}
		if end-first >= long {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// value returns the value that an interface gets for a number: a float64, or the number itself.
func value(n json.Number) (any, error) {
	text := string(n)
	f, failure := strconv.ParseFloat(text, 64)
	if isInteger(text) {
		if failure != nil || len(text) >= long && strconv.FormatFloat(f, 'f', -1, 64) != text {
			return n, nil //nolint:nilerr // a number that no float64 holds keeps its text
		}
		return f, nil
	}
	if failure != nil { // the error of encoding/json
		return nil, &json.UnmarshalTypeError{Value: "number " + text, Type: reflect.TypeFor[float64]()}
	}
	return f, nil
}

func isInteger(text string) bool {
	for i := range len(text) {
		if !isDigit(text[i]) && (i > 0 || text[0] != '-') {
			return false
		}
	}
	return true
}

// visit is a pointer that was followed. It ends the search in a value that refers to itself.
type visit struct {
	at uintptr
	of reflect.Type
}

// fixer replaces each json.Number in an interface by the result of value. It leaves fields of type
// json.Number alone, and also values that an UnmarshalJSON method made.
type fixer struct {
	seen map[visit]bool
	err  error
}

func (f *fixer) fix(v reflect.Value) {
	if !v.IsValid() || !holdsInterface(v.Type()) {
		return
	}
	if !v.CanInterface() && v.Kind() != reflect.Struct && v.Kind() != reflect.Pointer {
		return
	}
	switch v.Kind() {
	case reflect.Interface:
		if v.IsNil() {
			return
		}
		if n, ok := v.Interface().(json.Number); ok {
			if v.CanSet() {
				f.set(v, n)
			}
			return
		}
		f.dynamic(v.Interface())
	case reflect.Pointer:
		if v.IsNil() || !f.enter(v) {
			return
		}
		f.fix(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if t := v.Type().Field(i); t.IsExported() || t.Anonymous {
				f.fix(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.Len() == 0 || !f.enter(v) {
			return
		}
		for i := range v.Len() {
			f.fix(v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			f.fix(v.Index(i))
		}
	case reflect.Map:
		if v.Len() == 0 || !f.enter(v) {
			return
		}
		for i := v.MapRange(); i.Next(); {
			elem := reflect.New(v.Type().Elem()).Elem() // the elements of a map cannot be changed in place
			elem.Set(i.Value())
			f.fix(elem)
			v.SetMapIndex(i.Key(), elem)
		}
	}
}

// dynamic fixes the value of an interface. The types that encoding/json makes by itself need no
// reflection.
func (f *fixer) dynamic(v any) {
	switch v := v.(type) {
	case string, float64, bool, nil:
	case map[string]any:
		if !f.enter(reflect.ValueOf(v)) {
			return
		}
		for key, e := range v {
			if n, ok := e.(json.Number); ok {
				v[key] = f.value(n)
			} else {
				f.dynamic(e)
			}
		}
	case []any:
		if len(v) == 0 || !f.enter(reflect.ValueOf(v)) {
			return
		}
		for i, e := range v {
			if n, ok := e.(json.Number); ok {
				v[i] = f.value(n)
			} else {
				f.dynamic(e)
			}
		}
	default:
		if v := reflect.ValueOf(v); v.Kind() == reflect.Pointer { // a pointer that was there before and was decoded into
			f.fix(v)
		}
	}
}

func (f *fixer) value(n json.Number) any {
	v, err := value(n)
	if err != nil && f.err == nil {
		f.err = err
	}
	return v
}

func (f *fixer) set(v reflect.Value, n json.Number) {
	to := reflect.ValueOf(f.value(n))
	if !to.IsValid() {
		v.SetZero()
	} else if to.Type().AssignableTo(v.Type()) {
		v.Set(to)
	}
}

func (f *fixer) enter(v reflect.Value) bool {
	at := visit{v.Pointer(), v.Type()}
	if f.seen[at] {
		return false
	}
	f.seen[at] = true
	return true
}

var interfaces sync.Map // of reflect.Type to bool: the results of holdsInterface

// holdsInterface reports whether a value of the type may contain an interface that encoding/json
// decodes into.
func holdsInterface(t reflect.Type) bool {
	if t == nil {
		return false
	}
	if known, ok := interfaces.Load(t); ok {
		return known.(bool)
	}
	holds := searchInterface(t, nil)
	interfaces.Store(t, holds)
	return holds
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func searchInterface(t reflect.Type, within []reflect.Type) bool {
	if t.Kind() == reflect.Interface {
		return true
	}
	if slices.Contains(within, t) {
		return false
	}
	if t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) { // it decodes itself
		return false
	}
	within = append(within, t)
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return searchInterface(t.Elem(), within)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); (f.IsExported() || f.Anonymous) && searchInterface(f.Type, within) {
				return true
			}
		}
	}
	return false
}
