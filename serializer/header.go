package serializer

import (
	"bytes"
	"fmt"
)

// header collects the four strings of a message in one buffer, so that they cost one allocation: the refs as JSON text, topic
// and event as themselves. They are added in the order join_ref, ref, topic, event.
type header struct {
	buf      []byte
	ends     [4]int
	n        int
	rawTopic bool
}

func (h *header) end(buf []byte) {
	h.buf = buf
	h.ends[h.n] = len(buf)
	h.n++
}

// addRef adds a ref that came as valid JSON; nil is null.
func (h *header) addRef(raw []byte) {
	if len(raw) == 0 || raw[0] == 'n' {
		h.end(h.buf)
		return
	}
	h.end(appendCanonical(h.buf, raw))
}

// addName adds a topic or event that came as valid JSON: a string is its value, anything else its text.
func (h *header) addName(raw []byte) {
	if raw[0] == '"' {
		h.end(appendUnquoted(h.buf, raw))
		return
	}
	h.rawTopic = h.rawTopic || h.n == 2
	h.end(appendCanonical(h.buf, raw))
}

// put makes the strings and stores them in m.
func (h *header) put(m *Message) {
	s := string(h.buf)
	m.JoinRef, m.Ref = Ref(s[:h.ends[0]]), Ref(s[h.ends[0]:h.ends[1]])
	m.Topic, m.Event = s[h.ends[1]:h.ends[2]], s[h.ends[2]:]
	if h.rawTopic {
		m.Topic, m.RawTopic = "", m.Topic
	}
}

// headerRoom is the size of the array that a header's buffer starts with, on the stack of its parser.
const headerRoom = 128

func appendRef(dst []byte, r Ref) []byte {
	if r.IsNull() {
		return append(dst, "null"...)
	}
	return append(dst, r...)
}

// appendTopicEvent appends the JSON of the topic, what stands between, and the JSON of the event.
func appendTopicEvent(dst []byte, m *Message, between string) []byte {
	if m.RawTopic != "" {
		dst = append(dst, m.RawTopic...)
	} else {
		dst = AppendString(dst, m.Topic)
	}
	dst = append(dst, between...)
	if m.Kind == KindReply {
		return append(dst, `"`+EventReply+`"`...)
	}
	return AppendString(dst, m.Event)
}

// appendBody appends the payload as JSON, wrapped if it is a reply's.
func appendBody(dst []byte, m *Message) ([]byte, error) {
	start := len(dst)
	if m.Kind == KindReply {
		dst = append(dst, `{"status":`...)
		dst = AppendString(dst, m.Status)
		dst = append(dst, `,"response":`...)
	}
	dst, err := m.Payload.appendJSON(dst)
	if err != nil {
		return dst, err
	}
	switch m.Kind {
	case KindReply:
		dst = append(dst, '}')
	case KindRequest: // long polling sends requests as lines, and in valid JSON a line break is but a space
		body := dst[start:]
		for _, c := range [...]byte{'\n', '\r'} {
			for i := bytes.IndexByte(body, c); i >= 0; i = bytes.IndexByte(body, c) {
				body[i] = ' '
			}
		}
	}
	return dst, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("serializer: %w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// kindAtClient tells, by the refs, which kind of message a server has sent that is no reply.
func kindAtClient(m *Message) Kind {
	if m.JoinRef.IsNull() && m.Ref.IsNull() {
		return KindBroadcast
	}
	return KindPush
}

// atClient makes of a text message what it is at the client's end. What is called a reply and has no status is none: it is
// passed on as a push, for whoever wants to have it.
func atClient(m *Message) {
	m.Kind = kindAtClient(m)
	if m.Event != EventReply {
		return
	}
	var status, response []byte
	c := open(m.Payload.raw, '{')
	for c.next('}') {
		switch key, value := c.member(); {
		case isKey(key, "status"):
			status = value
		case isKey(key, "response"):
			response = value
		}
	}
	if len(status) == 0 || status[0] != '"' {
		return
	}
	m.Kind, m.Status, m.Payload = KindReply, string(appendUnquoted(nil, status)), Payload{}
	if response != nil {
		m.Payload = Payload{form: formJSON, raw: response}
	}
}

// isKey reports whether the valid JSON string raw is name.
func isKey(raw []byte, name string) bool {
	if len(raw) == len(name)+2 {
		return string(raw[1:len(raw)-1]) == name
	}
	return len(raw) > len(name)+2 && escaped(raw) && string(appendUnquoted(nil, raw)) == name
}
