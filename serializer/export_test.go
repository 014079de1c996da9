package serializer

// What the tests look at from inside.
var (
	ValidJSON           = validJSON
	AppendJSONAsMsgpack = appendJSONAsMsgpack
	AppendMsgpackAsJSON = appendMsgpackAsJSON
)

// ValidMsgpack reports whether b is one value.
func ValidMsgpack(b []byte) bool { return scanMsgpack(b, 0, 0) == len(b) }

// MaxDepth is how deep a message may nest.
const MaxDepth = maxDepth
