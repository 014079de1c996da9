package channel

// Names of history on the wire.
const (
	eventHistory    = "$history" // moves the position; pushed by clients to read the log
	memberHistory   = "$history" // in the params of a join and in its reply
	memberPosition  = "$pos"     // in the payload of a recorded event
	invalidPosition = "invalid position"
	reasonTrimmed   = "trimmed"
)
