package serializer

import (
	"bytes"
	"encoding/json"
	"sync"
	"unicode/utf8"
)

// AppendString appends s as a JSON string with as few escapes as possible. Bytes that are not UTF-8
// become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		i++
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i-1]...)
		start = i
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}

// appendUnquoted appends the value of the valid JSON string s, which includes its quotes.
func appendUnquoted[T string | []byte](dst []byte, s T) []byte {
	if !escaped(s) {
		return append(dst, s[1:len(s)-1]...)
	}
	for i := 1; i < len(s)-1; i++ {
		c := s[i]
		if c != '\\' {
			dst = append(dst, c)
			continue
		}
		i++
		switch c = s[i]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, size := unescapeRune(s[i-1:])
			dst = utf8.AppendRune(dst, r)
			i += max(size, 2) - 2
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// escaped reports whether s contains an escape.
func escaped[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] == '\\' {
			return true
		}
	}
	return false
}

// appendCanonical appends a valid JSON value without spaces and needless escapes.
func appendCanonical(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		end := i + 1
		switch raw[i] {
		case ' ', '\n', '\r', '\t':
		case '"':
			end = scanString(raw, i)
			if s := raw[i:end]; escaped(s) {
				dst = AppendString(dst, string(appendUnquoted(nil, s)))
			} else {
				dst = append(dst, s...)
			}
		default:
			dst = append(dst, raw[i])
		}
		i = end
	}
	return dst
}

// jsonEncoder is a reusable encoding/json encoder, which does not escape HTML.
type jsonEncoder struct {
	buf bytes.Buffer
	enc *json.Encoder
}

var jsonEncoders = sync.Pool{New: func() any {
	e := new(jsonEncoder)
	e.enc = json.NewEncoder(&e.buf)
	e.enc.SetEscapeHTML(false)
	return e
}}

// maxPooled is the capacity above which a buffer is not returned to its pool, so that a large
// message does not occupy memory permanently.
const maxPooled = 64 << 10

// withJSON encodes v and calls f with the valid JSON. The buffer may be used only during the call.
func withJSON(v any, f func(raw []byte)) error {
	if raw, ok := v.(json.RawMessage); ok && raw != nil {
		if !validJSON(raw) {
			return payloadError(errInvalidJSON)
		}
		f(trimSpace(raw))
		return nil
	}
	e := jsonEncoders.Get().(*jsonEncoder)
	e.buf.Reset()
	if err := e.enc.Encode(v); err != nil {
		jsonEncoders.Put(e)
		return payloadError(err)
	}
	raw := bytes.TrimSuffix(e.buf.Bytes(), []byte("\n"))
	// encoding/json checks the output of a json.Marshaler less strictly than validJSON does.
	ok := validJSON(raw)
	if ok {
		f(raw)
	}
	if e.buf.Cap() <= maxPooled {
		jsonEncoders.Put(e)
	}
	if !ok {
		return payloadError(errInvalidJSON)
	}
	return nil
}

// toValidUTF8 returns s with invalid bytes replaced as in AppendString.
func toValidUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}
