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

// ErrMalformed is wrapped by every error of Parse and ParseClient: the frame violates the protocol.
// Phoenix closes the connection that sent it.
var ErrMalformed = errors.New("malformed message")

// ErrPayload is wrapped by the errors of Append about a payload that cannot be sent: a value that
// cannot be encoded, a push or broadcast that is neither an object nor binary (1.0.0 allows any
// JSON), or binary in 1.0.0.
var ErrPayload = errors.New("payload cannot be sent")

// Op is the type of a frame. On a WebSocket it is the opcode.
type Op uint8

// The values are those of RFC 6455.
const (
	OpText   Op = 1
	OpBinary Op = 2
)

// Kind is one of the four forms of a message. Their binary frames differ in 2.0.0.
type Kind uint8

const (
	// KindRequest is a message from a client. It has a ref and is answered by a reply.
	KindRequest Kind = iota
	// KindPush is a message from a server to the channel of one client. It has no ref, except that
	// phx_close and phx_error repeat the join_ref.
	KindPush
	// KindReply is the answer to a request. Its event is phx_reply, and it has a status.
	KindReply
	// KindBroadcast is a message from a server to all subscribers of a topic. It has no refs.
	KindBroadcast
)

// Message is a message that was received or is to be sent. It is a plain value without locks.
type Message struct {
	Kind    Kind
	JoinRef Ref    // the ref of the join it belongs to
	Ref     Ref    // chosen by the sender of a request and repeated in the reply
	Topic   string // empty if RawTopic is set
	Event   string // the JSON text of an event that is not a string
	Status  string // of a KindReply: "ok", "error" or another

	// RawTopic is the JSON of a topic that is not a string. Such a topic has no route. The reply
	// repeats it.
	RawTopic string

	// Payload is the body. In a KindReply it is the response.
	Payload Payload
}

// Ref is a join_ref or ref as JSON text. So a ref of any type is repeated as it was received, and
// refs are compared as Phoenix compares them: `"1"` is not `1`, and `""` is not null. The text
// has no spaces and no needless escapes, so that equal strings are equal refs. The zero value is
// null. Use [StringRef] to make a Ref.
type Ref string

// EmptyRef is the ref with the empty string, which differs from null.
const EmptyRef Ref = `""`

// StringRef returns the ref with the value s.
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

// Text returns the value of a string, the empty string for null, and the JSON text of any other
// type, as Elixir's to_string does.
func (r Ref) Text() string {
	if len(r) < 2 || r[0] != '"' {
		return string(r)
	}
	if !escaped(string(r)) {
		return string(r[1 : len(r)-1])
	}
	return string(appendUnquoted(nil, string(r)))
}

// Serializer encodes and decodes messages in one version of the protocol. It must be safe for
// concurrent use. Its methods must not panic for any input: a panic may end the program.
type Serializer interface {
	// Version returns the requirement that a client's version must meet, with the meaning of Elixir's
	// "~>": "2.0.0" accepts every 2.0.x, and "3.0" every 3.x.
	Version() string

	// Append appends the frame of m to dst. If it fails it returns dst unchanged. The error wraps
	// ErrPayload if the payload is the cause.
	//
	// Append may be called while locks are held, for example that of a topic during a broadcast. It
	// must not block, and must not call a PubSub, a channel or a socket.
	Append(dst []byte, m *Message) (Op, []byte, error)

	// Parse decodes a frame from a client. The message's strings are copies, but its payload aliases
	// data, which must not be modified afterwards. The error wraps ErrMalformed.
	Parse(op Op, data []byte) (Message, error)

	// ParseClient decodes, in a client, a frame from a server. It sets the kind and unwraps replies.
	ParseClient(op Op, data []byte) (Message, error)
}
