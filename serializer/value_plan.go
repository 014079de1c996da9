package serializer

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// way is how the values of a type become MessagePack.
type way uint8

const (
	byKind    way = iota // by appendMpValue, which looks into them
	byLibrary            // by go-msgpack
	byJSON               // by encoding/json, and from there
)

// plan is what is known about a type.
type plan struct {
	way    way
	plain  bool // go-msgpack writes it as encoding/json means it, so it can be a part of what is left to go-msgpack
	fields []planField
}

type planField struct {
	index     int
	name      string
	omitEmpty bool
	omitZero  bool
}

// omitted reports whether the field is left out of the struct v.
func (f *planField) omitted(v reflect.Value) bool {
	switch {
	case f.omitZero && v.Field(f.index).IsZero():
		return true
	case !f.omitEmpty:
		return false
	}
	switch v := v.Field(f.index); v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	default:
		return v.IsZero()
	}
}

var plans sync.Map // of reflect.Type to *plan

func planOf(t reflect.Type) *plan { return planWithin(t, nil) }

// planWithin is the plan of t as a part of the types in within. One that contains itself is never plain, wherever it is come upon:
// go-msgpack would follow its values for ever.
func planWithin(t reflect.Type, within []reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	if slices.Contains(within, t) {
		return &plan{}
	}
	p, _ := plans.LoadOrStore(t, makePlan(t, append(within, t)))
	return p.(*plan)
}

// marshalers are what makes encoding/json ask the value itself, libraryHooks what makes go-msgpack do so.
var (
	marshalers   = []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()}
	libraryHooks = []reflect.Type{reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[codec.Selfer](),
		reflect.TypeFor[codec.MissingFielder](), reflect.TypeFor[codec.MapBySlice](), reflect.TypeFor[zeroer]()}
)

type zeroer interface{ IsZero() bool }

func implementsAny(t reflect.Type, interfaces []reflect.Type) bool {
	for _, i := range interfaces {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

// makePlan looks at t, the last of the types in within.
func makePlan(t reflect.Type, within []reflect.Type) *plan {
	if t == reflect.TypeFor[json.Number]() || (t.Kind() != reflect.Interface && implementsAny(t, marshalers)) {
		return &plan{way: byJSON}
	}
	p := &plan{plain: !implementsAny(t, libraryHooks)}
	part := func(t reflect.Type) { p.plain = planWithin(t, within).plain && p.plain }
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return p // no detour is worth it
	case reflect.Pointer:
		part(t.Elem())
		return p
	case reflect.Slice:
		part(t.Elem())
		switch e := t.Elem(); {
		case e.Kind() != reflect.Uint8:
		case implementsAny(e, marshalers): // then encoding/json makes no base64 of it
			return &plan{way: byJSON}
		default:
			p.plain = p.plain && e == reflect.TypeFor[uint8]()
			return p
		}
	case reflect.Map:
		if t.Key().Kind() != reflect.String || implementsAny(t.Key(), marshalers) {
			return &plan{way: byJSON}
		}
		part(t.Elem())
	case reflect.Struct:
		if !p.addFields(t, part) {
			return &plan{way: byJSON}
		}
	case reflect.Array, reflect.Interface: // go-msgpack makes bin of an array of bytes
		p.plain = false
	default: // it has no JSON: encoding/json says so
		return &plan{way: byJSON}
	}
	if p.plain {
		p.way = byLibrary
	}
	return p
}

// addFields adds the fields of the struct t. It is false if there is more to its JSON than a list of fields.
func (p *plan) addFields(t reflect.Type, part func(reflect.Type)) bool {
	fields, ok := fieldsOf(t)
	for _, f := range fields {
		part(t.Field(f.index).Type)
		// go-msgpack leaves out empty structs too, and does not know omitzero
		if f.omitZero || (f.omitEmpty && t.Field(f.index).Type.Kind() == reflect.Struct) {
			p.plain = false
		}
	}
	if _, has := t.FieldByName("_struct"); has { // which go-msgpack takes for options
		p.plain = false
	}
	p.fields = fields
	return ok
}

// fieldsOf lists the fields of the struct t that have a part in its JSON. It is false if there is more to that.
func fieldsOf(t reflect.Type) (fields []planField, ok bool) {
	names := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			return nil, false
		}
		tag := f.Tag.Get("json")
		if !f.IsExported() || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		pf := planField{index: i, name: name}
		if name == "" {
			pf.name = f.Name
		}
		if !isIdentifier(strings.ReplaceAll(pf.name, "_", "-")) || names[pf.name] {
			return nil, false
		}
		names[pf.name] = true
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "omitempty":
				pf.omitEmpty = true
			case "omitzero":
				if f.Type.Kind() == reflect.Interface || implementsAny(f.Type, []reflect.Type{reflect.TypeFor[zeroer]()}) {
					return nil, false
				}
				pf.omitZero = true
			case "string":
				return nil, false
			}
		}
		fields = append(fields, pf)
	}
	return fields, true
}
