package longpoll

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"bennu.example/serializer"
)

// answers has the buffers in which answers are made.
var answers = sync.Pool{New: func() any { return new([]byte) }}

// maxAnswerBuffer is the size up to which a buffer is kept for the next answer.
const maxAnswerBuffer = 256 << 10

// appendAnswer appends the body of the answer to a GET. Each frame becomes a string.
//
// The protocol has no form for a binary frame that clients can read. It becomes the base64 of its
// bytes, which differs from any text: texts begin with "[" or "{".
func appendAnswer(dst []byte, status int, token string, messages []*serializer.Frame) []byte {
	dst = append(dst, `{"status":`...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, `,"token":"`...)
	dst = append(dst, token...)
	dst = append(dst, `","messages":[`...)
	for i, f := range messages {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		if f.Op == serializer.OpText {
			dst = appendEscaped(dst, f.Data)
		} else {
			dst = base64.StdEncoding.AppendEncode(dst, f.Data)
		}
		dst = append(dst, '"')
	}
	return append(dst, "]}"...)
}

// appendEscaped appends text with the escapes of a JSON string, without the quotes. Invalid UTF-8
// becomes U+FFFD.
func appendEscaped(dst, text []byte) []byte {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	}
	from := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			const hex = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(dst, text[from:]...)
}

// respondAnswer answers a GET of a session. An error means that the client did not receive the
// answer.
func respondAnswer(w http.ResponseWriter, status int, token string, messages []*serializer.Frame) error {
	buf := answers.Get().(*[]byte)
	*buf = appendAnswer((*buf)[:0], status, token, messages)
	err := respondJSON(w, *buf)
	if cap(*buf) > maxAnswerBuffer {
		*buf = nil
	}
	answers.Put(buf)
	return err
}

// respondStatus answers with a status only.
func respondStatus(w http.ResponseWriter, status int) {
	respondJSON(w, []byte(`{"status":`+strconv.Itoa(status)+`}`))
}

// Values of headers. They must not change.
var (
	headerJSON    = []string{"application/json; charset=utf-8"}
	headerAny     = []string{"*"}
	headerNoStore = []string{"no-store"}
	headerNoSniff = []string{"nosniff"}
)

// respondJSON answers with a body of the protocol. An error means that the client did not receive
// it.
func respondJSON(w http.ResponseWriter, body []byte) error {
	w.Header()["Content-Type"] = headerJSON
	return respond(w, http.StatusOK, body)
}

// respond writes an answer and flushes the buffers of net/http, so that a write error is noticed.
// The caller must set the write deadline before.
func respond(w http.ResponseWriter, code int, body []byte) error {
	h := w.Header()
	h["Access-Control-Allow-Origin"] = headerAny
	h["Cache-Control"] = headerNoStore
	h["X-Content-Type-Options"] = headerNoSniff
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	if len(body) > 0 {
		if _, err := w.Write(body); err != nil {
			return err
		}
	}
	if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// setWriteDeadline bounds the time of an answer. The bound includes the time of a body, because
// net/http may read the rest of one first. It resets the deadline when the handler has returned.
func setWriteDeadline(w http.ResponseWriter) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(readTimeout + writeTimeout))
}

// setReadDeadline bounds the time of a body.
func setReadDeadline(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
}

// clearReadDeadline must be called once the body was read. While a request waits, net/http reads
// from the connection to notice that the client closed it, and would mistake a deadline for that,
// including the http.Server's ReadTimeout.
func clearReadDeadline(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Time{})
}
