package serializer

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// A Go value is encoded as JSON and converted to MessagePack, so that it means the same to every
// client. Only a []byte, which is a base64 string in JSON, is looked up in the Go value and written
// as a bin.

// appendValueAsMsgpack appends the Go value v as MessagePack. If it fails it returns dst unchanged.
func appendValueAsMsgpack(dst []byte, v any) ([]byte, error) {
	holds := shapeOf(reflect.TypeOf(v)).holds
	err := withJSON(v, func(raw []byte) {
		if holds {
			t := transcoder{raw: raw, dst: dst, sizes: containerSizes(nil, raw)}
			t.value(reflect.ValueOf(v))
			dst = t.dst
		} else {
			dst = appendJSONAsMsgpack(dst, raw)
		}
	})
	return dst, err
}

// transcoder converts the JSON of a Go value to MessagePack, with access to the value.
type transcoder struct {
	raw   []byte
	i     int    // the position in raw
	dst   []byte // what it appends to
	sizes []int  // of the containers to come
}

func (t *transcoder) token() {
	t.dst, t.sizes, t.i = appendJSONToken(t.dst, t.sizes, t.raw, t.i)
}

// value converts the next JSON value, which encodes v. If v is invalid, its Go value is not known
// and every string becomes a str.
func (t *transcoder) value(v reflect.Value) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	var s *shape
	if v.IsValid() {
		s = shapeOf(v.Type())
	}
	if s == nil || !s.holds {
		t.plain()
		return
	}
	switch c := t.raw[t.i]; {
	case s.payload:
		t.payload(v.Interface().(Payload))
	case c == '"' && s.bytes:
		dst := t.dst
		t.plain()
		t.dst = appendMpBin(dst, v.Bytes())
	case c == '{':
		for range t.open() {
			end := scanString(t.raw, t.i)
			member := s.member(v, t.raw[t.i:end])
			t.token()
			t.i++ // the colon
			t.value(member)
			t.i++ // a comma, or the end of the object
		}
	case c == '[':
		for i := range t.open() {
			var element reflect.Value
			if i < v.Len() {
				element = v.Index(i)
			}
			t.value(element)
			t.i++ // a comma, or the end of the array
		}
	default:
		t.plain()
	}
}

// open converts the head of a container and returns the number of its elements or members.
func (t *transcoder) open() int {
	n := t.sizes[0]
	t.token()
	if n == 0 {
		t.i++ // its end
	}
	return n
}

// plain converts the next JSON value without its Go value.
func (t *transcoder) plain() {
	end := t.i + 1
	if c := t.raw[t.i]; c == '{' || c == '[' {
		end = scanValue(t.raw, t.i, 0)
	}
	for t.i < end {
		t.token()
	}
}

// payload converts a Payload that is a part of the value. MessagePack and binary are not changed.
func (t *transcoder) payload(p Payload) {
	switch p.form {
	case formValue:
		t.value(reflect.ValueOf(p.value))
	case formMsgpack, formBinary, formSplice, formPositioned:
		dst := t.dst
		t.plain()                       // is overwritten by the original
		t.dst, _ = p.appendMsgpack(dst) // what has valid JSON does not fail
	default:
		t.plain()
	}
}

// shape describes a Go type.
type shape struct {
	holds   bool           // a value may be or contain a []byte or Payload
	bytes   bool           // the type is a []byte
	payload bool           // the type is Payload
	fields  map[string]int // the fields of a struct by their names in JSON
}

// member returns the field or element of v that has the JSON string key as its key.
func (s *shape) member(v reflect.Value, key []byte) reflect.Value {
	name := string(appendUnquoted(nil, key))
	switch v.Kind() {
	case reflect.Struct:
		if i, ok := s.fields[name]; ok {
			return v.Field(i)
		}
	case reflect.Map:
		return v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key()))
	}
	return reflect.Value{}
}

var shapes sync.Map // from reflect.Type to *shape

func shapeOf(t reflect.Type) *shape { return shapeWithin(t, nil) }

// shapeWithin returns the shape of t, which is a part of the types in within. A type that contains
// itself is taken to hold a []byte: if it does not, the lookup only costs time.
func shapeWithin(t reflect.Type, within []reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	if slices.Contains(within, t) {
		return &shape{holds: true}
	}
	s, _ := shapes.LoadOrStore(t, newShape(t, append(within, t)))
	return s.(*shape)
}

// newShape returns the shape of the last of the types in within.
func newShape(t reflect.Type, within []reflect.Type) *shape {
	s := new(shape)
	switch {
	case t == reflect.TypeFor[Payload]():
		s.holds, s.payload = true, true
	case t.Kind() == reflect.Interface:
		s.holds = true
	case marshalsItself(t):
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		s.bytes = !marshalsItself(t.Elem()) // encoding/json writes others as an array
		s.holds = s.bytes
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice, t.Kind() == reflect.Array:
		s.holds = shapeWithin(t.Elem(), within).holds
	case t.Kind() == reflect.Map:
		s.holds = t.Key().Kind() == reflect.String && shapeWithin(t.Elem(), within).holds
	case t.Kind() == reflect.Struct:
		s.fields = fieldsOf(t)
		for _, i := range s.fields {
			s.holds = s.holds || shapeWithin(t.Field(i).Type, within).holds
		}
	}
	return s
}

func marshalsItself(t reflect.Type) bool {
	marshaler, text := reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()
	p := reflect.PointerTo(t)
	return t.Implements(marshaler) || t.Implements(text) || p.Implements(marshaler) || p.Implements(text)
}

// fieldsOf returns the fields of the struct t by their names in JSON. It returns nil if t embeds a
// type or has unusual or repeated names, for which encoding/json has further rules.
func fieldsOf(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			return nil
		}
		tag := f.Tag.Get("json")
		if !f.IsExported() || tag == "-" {
			continue
		}
		name, _, _ := strings.Cut(tag, ",")
		if name == "" {
			name = f.Name
		}
		if _, twice := fields[name]; twice || !isIdentifier(strings.ReplaceAll(name, "_", "-")) {
			return nil
		}
		fields[name] = i
	}
	return fields
}
