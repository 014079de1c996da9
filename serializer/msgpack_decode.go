package serializer

import (
	"bytes"
	"encoding"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// MessagePack is decoded without a detour over JSON where there is nothing to decide: a str into a string, an integer into a type
// that holds it, a map into a struct of such fields. Everything else, every mismatch among it, is left to encoding/json, so that
// what a payload decodes to and which error it gives do not depend on what its client speaks.

// decodeMsgpack stores the valid value raw in what v points to. If it is false that may have been done in part; to let encoding/json
// do all of it gives the same as if it had not been begun.
func decodeMsgpack(raw []byte, v any) bool {
	to := reflect.ValueOf(v)
	if to.Kind() != reflect.Pointer || to.IsNil() || !decodableOf(to.Type().Elem()).ok {
		return false
	}
	return decodeMp(raw, 0, to.Elem()) == len(raw)
}

// decodeMp stores the value at i in v and returns where it ends, or a negative number if that is not for it to do.
func decodeMp(b []byte, i int, v reflect.Value) int {
	m, next := readMsgpack(b, i)
	switch kind := v.Kind(); {
	case m.kind == mpNil:
		if kind == reflect.Pointer || kind == reflect.Map || kind == reflect.Slice {
			v.SetZero()
		}
	case kind == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return decodeMp(b, i, v.Elem())
	case kind == reflect.Struct && m.kind == mpMap:
		return decodeMpStruct(b, next, m.size/2, v)
	case kind == reflect.Map && m.kind == mpMap:
		return decodeMpMap(b, next, m.size/2, v)
	case kind == reflect.Slice && m.kind == mpArray:
		return decodeMpSlice(b, next, m.size, v)
	case kind == reflect.Slice && m.kind == mpBin && v.Type().Elem() == reflect.TypeFor[byte]():
		v.SetBytes(append(make([]byte, 0, len(m.data)), m.data...))
	case !decodeMpScalar(&m, v):
		return -1
	}
	return next
}

// decodeMpScalar stores a string, a number or a bool where nothing is lost.
func decodeMpScalar(m *mpValue, v reflect.Value) bool {
	switch n := int64(m.bits); v.Kind() {
	case reflect.String:
		if m.kind == mpStr && utf8.Valid(m.data) {
			v.SetString(string(m.data))
			return true
		}
	case reflect.Bool:
		if m.kind == mpBool {
			v.SetBool(m.bits == 1)
			return true
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if m.kind == mpInt && !v.OverflowInt(n) {
			v.SetInt(n)
			return true
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if (m.kind == mpUint || m.kind == mpInt && n >= 0) && !v.OverflowUint(m.bits) {
			v.SetUint(m.bits)
			return true
		}
	case reflect.Float32, reflect.Float64:
		f := m.float()
		if m.kind == mpInt {
			f = float64(n)
		}
		exact := v.Kind() == reflect.Float64 || float64(float32(f)) == f
		if (m.kind == mpFloat || m.kind == mpInt && int64(f) == n) && exact && !math.IsNaN(f) && !math.IsInf(f, 0) {
			v.SetFloat(f)
			return true
		}
	}
	return false
}

func decodeMpSlice(b []byte, i, size int, v reflect.Value) int {
	if v.Cap() > 0 { // encoding/json has rules of its own for what is there already
		return -1
	}
	v.Set(reflect.MakeSlice(v.Type(), size, size))
	for n := range size {
		if i = decodeMp(b, i, v.Index(n)); i < 0 {
			return i
		}
	}
	return i
}

func decodeMpMap(b []byte, i, size int, v reflect.Value) int {
	t := v.Type()
	if v.IsNil() {
		v.Set(reflect.MakeMapWithSize(t, size))
	}
	key, value := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
	for range size {
		if k, _ := readMsgpack(b, i); k.kind != mpStr {
			return -1
		}
		if i = decodeMp(b, i, key); i < 0 {
			return i
		}
		value.SetZero()
		if i = decodeMp(b, i, value); i < 0 {
			return i
		}
		v.SetMapIndex(key, value)
	}
	return i
}

func decodeMpStruct(b []byte, i, size int, v reflect.Value) int {
	d := decodableOf(v.Type())
	for range size {
		key, next := readMsgpack(b, i)
		if key.kind != mpStr {
			return -1
		}
		index, known := d.fields[string(key.data)]
		switch {
		case known:
			i = decodeMp(b, next, v.Field(index))
		case d.resembles(key.data):
			return -1
		default:
			i = scanMsgpack(b, next, 1)
		}
		if i < 0 {
			return i
		}
	}
	return i
}

// decodable is what is known about a type that is decoded into.
type decodable struct {
	ok     bool           // decodeMp can do it
	fields map[string]int // a struct's, by name
}

// resembles reports whether encoding/json could take key for a field's name, in which case does not matter.
func (d *decodable) resembles(key []byte) bool {
	for name := range d.fields {
		if len(name) == len(key) && strings.EqualFold(name, string(key)) || !isASCII(key) {
			return true
		}
	}
	return false
}

func isASCII(b []byte) bool {
	return bytes.IndexFunc(b, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

var decodables sync.Map // of reflect.Type to *decodable

func decodableOf(t reflect.Type) *decodable { return decodableWithin(t, nil) }

// decodableWithin looks at t as a part of the types in within. Those that contain themselves are none of decodeMp's, which recurses.
func decodableWithin(t reflect.Type, within []reflect.Type) *decodable {
	if d, ok := decodables.Load(t); ok {
		return d.(*decodable)
	}
	if slices.Contains(within, t) {
		return &decodable{}
	}
	d, _ := decodables.LoadOrStore(t, makeDecodable(t, append(within, t)))
	return d.(*decodable)
}

var unmarshalers = []reflect.Type{reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler]()}

func makeDecodable(t reflect.Type, within []reflect.Type) *decodable {
	d := new(decodable)
	if implementsAny(t, unmarshalers) || t == reflect.TypeFor[json.Number]() {
		return d
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		d.ok = true
	case reflect.Pointer, reflect.Slice:
		d.ok = decodableWithin(t.Elem(), within).ok
	case reflect.Map:
		d.ok = t.Key().Kind() == reflect.String && decodableWithin(t.Key(), within).ok && decodableWithin(t.Elem(), within).ok
	case reflect.Struct:
		var fields []planField
		if fields, d.ok = fieldsOf(t); !d.ok {
			return d
		}
		d.fields = make(map[string]int, len(fields))
		for _, f := range fields {
			d.fields[f.name] = f.index
			d.ok = d.ok && decodableWithin(t.Field(f.index).Type, within).ok
		}
	}
	return d
}
