package serializer

import (
	"bytes"
	"fmt"
)

// headerRoom is the initial size of the buffer for the four strings of a message. They are
// collected in one buffer, so that they cost one allocation: the refs as JSON text, topic and
// event as they are. The buffer begins on the parser's stack.
const headerRoom = 128

// headerEnds are the ends of join_ref, ref and topic in the buffer. The event ends with the buffer.
type headerEnds struct {
	ends     [3]int
	rawTopic bool // the topic is JSON other than a string
}

// set sets the strings from the buffer. A channel keeps the strings of its join for as long as it
// lives, so what need not be copied is not: a ref that equals the join_ref, as that of a join by
// phoenix.js does, and an event of the protocol.
func (m *Message) set(buf []byte, n headerEnds) {
	begin, end := 0, len(buf)
	if bytes.Equal(buf[:n.ends[0]], buf[n.ends[0]:n.ends[1]]) {
		begin = n.ends[0]
	}
	if m.Event = ownEvent(buf[n.ends[2]:]); m.Event != "" {
		end = n.ends[2]
	}
	s := string(buf[begin:end])
	ref, topic := n.ends[1]-begin, n.ends[2]-begin
	m.JoinRef, m.Ref, m.Topic = Ref(s[:n.ends[0]]), Ref(s[n.ends[0]-begin:ref]), s[ref:topic]
	if m.Event == "" {
		m.Event = s[topic:]
	}
	if n.rawTopic {
		m.Topic, m.RawTopic = "", m.Topic
	}
}

// ownEvent returns the name of an event if it is one of the protocol's, and an empty string
// otherwise.
func ownEvent(name []byte) string {
	switch string(name) {
	case EventJoin:
		return EventJoin
	case EventLeave:
		return EventLeave
	case EventHeartbeat:
		return EventHeartbeat
	case EventReply:
		return EventReply
	case EventError:
		return EventError
	case EventClose:
		return EventClose
	}
	return ""
}

// setJSON sets the strings from valid JSON values. Nil means null for joinRef.
func (m *Message) setJSON(joinRef, ref, topic, event []byte) {
	var room [headerRoom]byte
	var n headerEnds
	buf := appendRefOf(room[:0], joinRef)
	n.ends[0] = len(buf)
	buf = appendRefOf(buf, ref)
	n.ends[1] = len(buf)
	buf, n.rawTopic = appendNameOf(buf, topic)
	n.ends[2] = len(buf)
	buf, _ = appendNameOf(buf, event)
	m.set(buf, n)
}

func appendRefOf(buf, raw []byte) []byte {
	if len(raw) == 0 || raw[0] == 'n' {
		return buf
	}
	return appendCanonical(buf, raw)
}

// appendNameOf appends a topic or event: the value of a string, or the JSON of anything else.
func appendNameOf(buf, raw []byte) (_ []byte, isRaw bool) {
	if raw[0] == '"' {
		return appendUnquoted(buf, raw), false
	}
	return appendCanonical(buf, raw), true
}

func appendRef(dst []byte, r Ref) []byte {
	if r.IsNull() {
		return append(dst, "null"...)
	}
	return append(dst, r...)
}

// appendTopicEvent appends the topic and the event as JSON, with between between them.
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

// appendBody appends the payload as JSON. The payload of a reply is wrapped with its status.
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
	case KindRequest: // long polling sends requests as lines; in valid JSON, a line break equals a space
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

// kindAtClient returns the kind of a message from a server that is not a reply. It depends on the
// refs.
func kindAtClient(m *Message) Kind {
	if m.JoinRef.IsNull() && m.Ref.IsNull() {
		return KindBroadcast
	}
	return KindPush
}

// atClient sets the kind of a text message from a server and unwraps a reply. A message with the
// event phx_reply but without a status is treated as a push.
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
	var room [32]byte
	m.Kind, m.Status, m.Payload = KindReply, statusOf(appendUnquoted(room[:0], status)), Payload{}
	if response != nil {
		m.Payload = Payload{form: formJSON, raw: response}
	}
}

// statusOf returns text as a string. The usual statuses do not allocate.
func statusOf(text []byte) string {
	switch string(text) {
	case "ok":
		return "ok"
	case "error":
		return "error"
	}
	return string(text)
}

// isKey reports whether the value of the valid JSON string raw is name.
func isKey(raw []byte, name string) bool {
	if len(raw) == len(name)+2 {
		return string(raw[1:len(raw)-1]) == name
	}
	return len(raw) > len(name)+2 && escaped(raw) && string(appendUnquoted(nil, raw)) == name
}
