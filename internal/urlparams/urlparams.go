// Package urlparams encodes connection parameters as phoenix.js encodes them.
package urlparams

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
)

// Encode returns the query for a connection's parameters, in the format of phoenix.js.
//
// A map or a struct, encoded by its json tags, results in one pair per field. Nested maps have
// names such as a[b], and slices a[0]. Null and empty maps and slices result in no pair. Each value
// of url.Values results in one pair. Other types are an error.
func Encode(v any) (string, error) {
	if values, ok := v.(url.Values); ok {
		return encodeParamValues(values), nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode query: %w", err)
	}
	w := paramWriter{dec: json.NewDecoder(bytes.NewReader(text))}
	w.dec.UseNumber()
	switch text[0] {
	case '{':
		w.value() // cannot fail, because the JSON is valid
		return string(w.out), nil
	case 'n':
		return "", nil
	}
	return "", fmt.Errorf("encode query: %T is neither a map nor a struct", v)
}

func encodeParamValues(values url.Values) string {
	var out []byte
	for _, k := range slices.Sorted(maps.Keys(values)) {
		for _, v := range values[k] {
			out = appendParam(out, AppendComponent(nil, k), v)
		}
	}
	return string(out)
}

// paramWriter reads a JSON text and writes a pair for each leaf.
type paramWriter struct {
	dec *json.Decoder
	key []byte // of the next value, escaped
	out []byte
}

// value writes the next value of the text. It returns false at the end of an object or array.
func (w *paramWriter) value() bool {
	token, err := w.dec.Token()
	if err != nil {
		return false
	}
	switch t := token.(type) {
	case json.Delim:
		switch t {
		case '{':
			for w.member() {
			}
		case '[':
			for i := 0; w.under(strconv.Itoa(i)); i++ {
			}
		default:
			return false
		}
	case string:
		w.out = appendParam(w.out, w.key, t)
	case json.Number:
		w.out = appendParam(w.out, w.key, t.String())
	case bool:
		w.out = appendParam(w.out, w.key, strconv.FormatBool(t))
	}
	return true
}

// member writes the next field of an object.
func (w *paramWriter) member() bool {
	token, err := w.dec.Token()
	name, ok := token.(string)
	return err == nil && ok && w.under(name)
}

// under writes the next value, which has that name in the current object or array.
func (w *paramWriter) under(name string) bool {
	outer := len(w.key)
	if outer == 0 {
		w.key = AppendComponent(w.key, name)
	} else {
		w.key = append(w.key, "%5B"...)
		w.key = AppendComponent(w.key, name)
		w.key = append(w.key, "%5D"...)
	}
	ok := w.value()
	w.key = w.key[:outer]
	return ok
}

func appendParam(dst, key []byte, value string) []byte {
	if len(dst) > 0 {
		dst = append(dst, '&')
	}
	dst = append(dst, key...)
	dst = append(dst, '=')
	return AppendComponent(dst, value)
}

// AppendComponent appends s, escaped as by JavaScript's encodeURIComponent.
func AppendComponent(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '!', c == '~', c == '*', c == '\'', c == '(', c == ')':
			dst = append(dst, c)
		default:
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}
