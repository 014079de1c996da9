package serializer

import (
	"errors"
	"reflect"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// Go values become MessagePack here. Each type is looked at once: one that holds only what go-msgpack writes as encoding/json
// means it is left to go-msgpack, one that marshals itself goes through JSON, and the others are walked until it is one or the
// other. (go-msgpack by itself makes bin of a json.RawMessage or a UUID and nothing at all of a big.Int, and does not know
// most options of json tags.)

// maxValueDepth is where a value is taken to refer to itself. encoding/json begins to look at the same depth.
const maxValueDepth = 1000

var errTooDeep = errors.New("it has too many levels")

// mpEncoder is a go-msgpack encoder that can be used again.
type mpEncoder struct {
	enc *codec.Encoder
	out []byte
}

var mpEncoders = sync.Pool{New: func() any {
	e := &mpEncoder{out: make([]byte, 0, 512)}
	e.enc = codec.NewEncoderBytes(&e.out, mpHandle)
	return e
}}

// mpHandle is shared by all encoders. WriteExt tells str and bin apart. RawToString and MapType are not set: they are for decoding,
// which is done through JSON, and RawToString would make one of str and bin again.
var mpHandle = func() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{WriteExt: true, PositiveIntUnsigned: true}
	h.TypeInfos = codec.NewTypeInfos([]string{"json"})
	return h
}()

func appendByLibrary(dst []byte, v any) ([]byte, error) {
	e := mpEncoders.Get().(*mpEncoder)
	e.enc.ResetBytes(&e.out)
	if err := e.enc.Encode(v); err != nil {
		return dst, payloadError(err)
	}
	dst = append(dst, e.out...)
	if cap(e.out) <= maxPooled {
		mpEncoders.Put(e)
	}
	return dst, nil
}

func appendByJSON(dst []byte, v any) ([]byte, error) {
	err := withJSON(v, func(raw []byte) { dst = appendJSONAsMsgpack(dst, raw) })
	return dst, err
}

// appendMpAny appends v, inside of depth levels. What maps and slices are mostly made of needs no reflection.
func appendMpAny(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, 0xc0), nil
	case string:
		return appendMpStr(dst, toValidUTF8(v)), nil
	case bool:
		return appendMpBool(dst, v), nil
	case int:
		return appendMpInt(dst, int64(v)), nil
	case float64:
		return appendMpFloat(dst, v), nil
	}
	return appendMpValue(dst, reflect.ValueOf(v), depth)
}

func appendMpValue(dst []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > maxValueDepth {
		return dst, payloadError(errTooDeep)
	}
	p := planOf(v.Type())
	switch p.way {
	case byLibrary:
		return appendByLibrary(dst, v.Interface())
	case byJSON:
		if part, ok := v.Interface().(Payload); ok {
			return part.appendMsgpack(dst)
		}
		if v.CanAddr() { // methods of pointers count, as in encoding/json
			v = v.Addr()
		}
		return appendByJSON(dst, v.Interface())
	}
	var err error
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(dst, 0xc0), nil
		}
		if v.Kind() == reflect.Interface {
			return appendMpAny(dst, v.Interface(), depth+1)
		}
		return appendMpValue(dst, v.Elem(), depth+1)
	case reflect.Map:
		if v.IsNil() {
			return append(dst, 0xc0), nil
		}
		dst = appendMpMapHead(dst, v.Len())
		for i := v.MapRange(); i.Next() && err == nil; {
			dst = appendMpStr(dst, toValidUTF8(i.Key().String()))
			dst, err = appendMpValue(dst, i.Value(), depth+1)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return append(dst, 0xc0), nil
		}
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			return appendMpBin(dst, v.Bytes()), nil
		}
		dst = appendMpArrayHead(dst, v.Len())
		for i := 0; i < v.Len() && err == nil; i++ {
			dst, err = appendMpValue(dst, v.Index(i), depth+1)
		}
	case reflect.Struct:
		n := 0
		for _, f := range p.fields {
			if !f.omitted(v) {
				n++
			}
		}
		dst = appendMpMapHead(dst, n)
		for i := 0; i < len(p.fields) && err == nil; i++ {
			if f := &p.fields[i]; !f.omitted(v) {
				dst = appendMpStr(dst, f.name)
				dst, err = appendMpValue(dst, v.Field(f.index), depth+1)
			}
		}
	case reflect.String:
		dst = appendMpStr(dst, toValidUTF8(v.String()))
	case reflect.Bool:
		dst = appendMpBool(dst, v.Bool())
	case reflect.Float32, reflect.Float64:
		dst = appendMpFloat(dst, v.Float())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		dst = appendMpInt(dst, v.Int())
	default:
		dst = appendMpUint(dst, v.Uint())
	}
	return dst, err
}
