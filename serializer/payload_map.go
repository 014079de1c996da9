package serializer

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"
)

// decodeMap stores a map of strings in the struct that v points to, as encoding and decoding JSON
// would do. The parameters of a handshake are such a map. It returns false, and has stored nothing,
// if the map or the struct needs JSON.
func decodeMap(m map[string]any, v any) bool {
	at := reflect.ValueOf(v)
	if at.Kind() != reflect.Pointer || at.IsNil() || at.Elem().Kind() != reflect.Struct {
		return false
	}
	to := at.Elem()
	fields := mapFieldsOf(to.Type())
	if fields == nil {
		return false
	}
	var stored uint64 // the fields that are stored, which is decided before the first is changed
	for key, value := range m {
		text, ok := value.(string)
		if !ok {
			return false
		}
		i := fields.find(key)
		if i < 0 {
			continue
		}
		if stored&(1<<i) != 0 || !fields.accept(to, i) || !utf8.ValidString(text) {
			return false
		}
		stored |= 1 << i
	}
	for key, value := range m {
		if i := fields.find(key); i >= 0 {
			to.Field(fields.list[i].index).Set(reflect.ValueOf(value))
		}
	}
	return true
}

// mapFields are the fields of a struct that encoding/json decodes into. Nil means that the struct
// needs JSON.
type mapFields struct{ list []mapField }

type mapField struct {
	name  string // in JSON
	index int
}

// find returns the index in the list of the field that a key is decoded into, or -1.
func (f *mapFields) find(key string) int {
	for i := range f.list {
		if strings.EqualFold(f.list[i].name, key) {
			return i
		}
	}
	return -1
}

// accept reports whether field i stores a string without JSON: a field of type string, or a nil
// interface.
func (f *mapFields) accept(to reflect.Value, i int) bool {
	switch v := to.Field(f.list[i].index); v.Type() {
	case reflect.TypeFor[string]():
		return true
	case reflect.TypeFor[any]():
		return v.IsNil() // encoding/json follows a pointer in it
	}
	return false
}

var allMapFields sync.Map // of reflect.Type to *mapFields

func mapFieldsOf(t reflect.Type) *mapFields {
	if known, ok := allMapFields.Load(t); ok {
		return known.(*mapFields)
	}
	f := newMapFields(t)
	allMapFields.Store(t, f)
	return f
}

// newMapFields returns nil if t decodes itself, if encoding/json has further rules for it (see
// fieldsOf), or if it has names that differ by their case only or more than 64 fields.
func newMapFields(t reflect.Type) *mapFields {
	p := reflect.PointerTo(t)
	names := fieldsOf(t)
	if names == nil || len(names) > 64 ||
		p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	f := new(mapFields)
	for name, i := range names {
		_, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if f.find(name) >= 0 || strings.Contains(options, "string") {
			return nil
		}
		f.list = append(f.list, mapField{name, i})
	}
	return f
}
