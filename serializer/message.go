package serializer

import "errors"

// Reserved topics and events of the protocol.
const (
	TopicPhoenix   = "phoenix"   // the topic of heartbeats
	EventHeartbeat = "heartbeat" // on TopicPhoenix
	EventJoin      = "phx_join"
	EventLeave     = "phx_leave"
	EventReply     = "phx_reply"
	EventError     = "phx_error"
	EventClose     = "phx_close"
)

// ErrMalformed is wrapped by every error of Parse and ParseClient: the frame is not one of this protocol's.
// Phoenix ends the connection that sent it.
var ErrMalformed = errors.New("malformed message")

// ErrPayload is wrapped by the errors of Append that are about a payload which the serializer cannot carry: a value that
// does not encode, a push or broadcast that is neither an object nor binary (but in 1.0.0), binary in 1.0.0.
var ErrPayload = errors.New("payload cannot be sent")

// Op is the kind of a frame. On a WebSocket it is the opcode.
type Op uint8

// The values are those of RFC 6455.
const (
	OpText   Op = 1
	OpBinary Op = 2
)

// Kind tells the four forms of a message apart; the binary frames of 2.0.0 differ in layout.
type Kind uint8

const (
	KindRequest   Kind = iota // from a client: has a ref, and is answered by a reply
	KindPush                  // from a server to one client's channel: no ref, but phx_close and phx_error repeat the join_ref
	KindReply                 // the answer to a request: event phx_reply, and a status
	KindBroadcast             // from a server to everyone on a topic: neither join_ref nor ref
)

// Message is one message, in or out. It is a plain value without locks: whoever holds it may change it.
type Message struct {
	Kind    Kind
	JoinRef Ref    // the ref of the join it belongs to
	Ref     Ref    // chosen by who sent the request, echoed in the reply
	Topic   string // "" with RawTopic set if the topic is not a string
	Event   string // an event that is not a string is its JSON text, which equals no sensible name
	Status  string // of a KindReply: "ok", "error" or any other

	// RawTopic is the JSON of a topic that is no string. Such a topic has no route, and is named in the answer as it came.
	RawTopic string

	// Payload is the body; of a KindReply, the response.
	Payload Payload
}

// Ref is a join_ref or ref as its JSON text, so that any type comes back as it came and is compared as Phoenix compares:
// `"1"` is not `1`, and `""` is not null. The text has no spaces and no needless escapes, so that equal strings are equal refs
// however they were spelled. The zero value is null. A ref that does not come from Parse is made by [StringRef].
type Ref string

// EmptyRef is the empty string, which is another thing than null.
const EmptyRef Ref = `""`

// StringRef is the ref whose value is the string s.
func StringRef(s string) Ref {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			return Ref(AppendString(nil, s))
		}
	}
	return Ref(`"` + s + `"`)
}

// IsNull reports whether r is null.
func (r Ref) IsNull() bool { return r == "" }

// Text is the string that r holds. Null is "" and any other type is its JSON text, as Elixir's to_string would have it.
func (r Ref) Text() string {
	if len(r) < 2 || r[0] != '"' {
		return string(r)
	}
	if !escaped(string(r)) {
		return string(r[1 : len(r)-1])
	}
	return string(appendUnquoted(nil, string(r)))
}

// Serializer is one version of the wire. It is safe for use by any number of goroutines. Its methods must not panic, whatever the
// input: a panic may end the program.
type Serializer interface {
	// Version is what it answers to, read as Elixir's "~>" does: "2.0.0" takes every 2.0.x, "3.0" every 3.x.
	Version() string

	// Append appends the frame of m to dst. On an error, which wraps ErrPayload if the payload is the cause, dst comes
	// back as it was.
	Append(dst []byte, m *Message) (Op, []byte, error)

	// Parse reads what a client sent. The message's strings are copies; its payload aliases data, which must not change
	// any more. The error wraps ErrMalformed.
	Parse(op Op, data []byte) (Message, error)

	// ParseClient reads, at the client's end, what a server sent: replies are told apart and unwrapped.
	ParseClient(op Op, data []byte) (Message, error)
}
