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

// The statuses of long polling. They stand in the body; HTTP's own is 200.
const (
	statusOK        = 200
	statusEmpty     = 204 // nothing came within the window
	statusForbidden = 403
	statusTimeout   = 408 // a message of the POST was not taken, or was none
	statusGone      = 410 // no such session; to a GET: but here is a new one
)

// answers holds the buffers of answers.
var answers = sync.Pool{New: func() any { return new([]byte) }}

// maxAnswerBuffer is what a buffer may hold to be kept for the next answer.
const maxAnswerBuffer = 256 << 10

// appendAnswer appends the answer to a GET. Each frame becomes a string; a binary one, for which the protocol has no form that clients could
// read, the base64 of its bytes, which cannot be mistaken for a text: those start with "[" or "{".
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

// appendEscaped appends text as it stands between the quotes of a JSON string. What is not UTF-8 becomes U+FFFD.
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

// respondAnswer answers a GET of a session.
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

// respondStatus answers with a status and nothing else.
func respondStatus(w http.ResponseWriter, status int) {
	respondJSON(w, []byte(`{"status":`+strconv.Itoa(status)+`}`))
}

// Header values that are always the same. Nobody changes them.
var (
	headerJSON    = []string{"application/json; charset=utf-8"}
	headerAny     = []string{"*"}
	headerNoStore = []string{"no-store"}
	headerNoSniff = []string{"nosniff"}
)

// respondJSON answers with a body of the protocol. An error says that the client will not see it.
func respondJSON(w http.ResponseWriter, body []byte) error {
	w.Header()["Content-Type"] = headerJSON
	return respond(w, http.StatusOK, body)
}

// respond answers, and sees to it that the answer leaves: when it returns, nothing is left in a buffer of net/http's. The write deadline
// is the caller's to set.
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

// setWriteDeadline gives an answer its time. net/http may first read what is left of a body, which has its own. It takes the deadline back
// when the handler has returned.
func setWriteDeadline(w http.ResponseWriter) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(readTimeout + writeTimeout))
}

// setReadDeadline gives a body its time.
func setReadDeadline(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
}

// clearReadDeadline is for when there is nothing left to read but the client's end: net/http watches for that while a request waits, and would
// take a deadline, a server's ReadTimeout too, for it.
func clearReadDeadline(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Time{})
}
