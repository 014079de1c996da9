package channelhost

import "bennu.example/serializer"

// The questions of package call to all clients of a topic, and what the nodes report about them.
const (
	// EventGather asks the channels of a topic, with a GatherQuestion. No client receives it.
	EventGather = "$gather"
	// GatherInbox and the id of a question are the control topic of the reports, on the node that
	// asks. The event is EventGather, too.
	GatherInbox = "bennu:gather:"
)

// CheckCall returns the encoded payload of a call, or why clients cannot be called with the event
// and the payload. Package channel sets it when it is initialized.
var CheckCall func(event string, payload any) (serializer.Payload, error)

// GatherQuestion is the payload of EventGather.
type GatherQuestion struct {
	ID      string             `json:"id"`
	Node    string             `json:"node"` // that asks
	Event   string             `json:"event"`
	Payload serializer.Payload `json:"payload"`
	MS      int64              `json:"ms"`  // that the clients have for their answers
	Max     int                `json:"max"` // answers that the asker takes
}

// GatherReport is what a node reports: how many clients it calls, and perhaps the end of one call.
type GatherReport struct {
	Node   string        `json:"node"`
	Asked  int           `json:"asked"` // so far; it only grows
	Answer *GatherAnswer `json:"answer,omitempty"`
}

// GatherAnswer is the end of a call. Failure is empty if the client has answered.
type GatherAnswer struct {
	Socket   string              `json:"socket"`
	Status   string              `json:"status,omitempty"`
	Response *serializer.Payload `json:"response,omitempty"`
	Binary   []byte              `json:"binary,omitempty"` // the response, if it is binary
	Failure  string              `json:"failure,omitempty"`
}

// The values of GatherAnswer.Failure. Others are texts of errors.
const (
	FailureClosed    = "closed"
	FailureTimeout   = "timeout"
	FailureTooMany   = "too many calls"
	FailureNoHandler = "no handler"
)
