package serializer

// Unexported functions for the tests.
var (
	ValidJSON           = validJSON
	AppendJSONAsMsgpack = appendJSONAsMsgpack
	AppendMsgpackAsJSON = appendMsgpackAsJSON
)

// ValidMsgpack reports whether b is exactly one value.
func ValidMsgpack(b []byte) bool { return scanMsgpack(b, 0, 0) == len(b) }

// MaxDepth is the number of levels that a message may have.
const MaxDepth = maxDepth
